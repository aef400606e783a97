"""`drf` and its work units as tests call them: in this process, with a tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drf_core.annotator import Annotator
from pipelines.annotate.job import JobOptions
from pipelines.cli import main
from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output, Run, annotate_arguments, job_options
from tests.support.training_runs import write_training_corpus


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return write_posts(tmp_path / "in" / "posts.parquet", make_posts(3))


@pytest.fixture
def drf(capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Calls the console command in this process."""

    def call(*arguments: object) -> Run:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Run(code, captured.out, captured.err)

    return call


@pytest.fixture
def annotate(drf: Callable[..., Run], output: Output, tiny_checkpoint: Path) -> Callable[..., Run]:
    """Calls `drf annotate --json` on an input, with the tiny checkpoint."""

    def call(source: object, *arguments: object) -> Run:
        return drf(*annotate_arguments(source, output, tiny_checkpoint), *arguments)

    return call


@pytest.fixture
def inferred(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the model saw in this process."""
    sizes: list[int] = []
    predict = Annotator.predict
    monkeypatch.setattr(
        Annotator, "predict", lambda self, posts: sizes.append(len(posts)) or predict(self, posts)
    )
    return sizes


@pytest.fixture
def options(tmp_path: Path, tiny_checkpoint: Path) -> JobOptions:
    """Of a job whose work units a test annotates itself."""
    return job_options(tiny_checkpoint, tmp_path / "out", batch_size=8, threads=1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled posts and the configuration of a training of seconds; only to be read."""
    return write_training_corpus(tmp_path_factory.mktemp("labelled"))
