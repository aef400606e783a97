"""Prism, a runner apart from this process: what holds there holds on any portable runner.

It serialises every function and element, speaks the protocols that Flink and Dataflow speak,
and takes no part of the pipeline on trust.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from drf_core.annotator import Annotator
from pipelines.annotate_posts import AnnotatePosts
from tests.data.corpora import damage_page, faulty_posts, make_posts, write_nights, write_posts
from tests.support.running import Output, Run, annotate_arguments

Annotate = Callable[..., Run]

# A row but for when it was made and by which run.
_RUN_COLUMNS = ("run_id", "annotated_at")


@pytest.fixture(scope="module")
def prism() -> list[str]:
    """The options that choose Prism, built on the first call."""
    program = Path(__file__).parents[3] / "build_prism"
    built = subprocess.run([program], capture_output=True, text=True, check=False)
    if built.returncode == 3:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    return ["--runner=PrismRunner", f"--prism_location={built.stdout.strip()}"]


def rows_of(output: Output) -> list[dict[str, Any]]:
    rows = [*output.annotations, *output.dead_letters]
    return [{k: v for k, v in row.items() if k not in _RUN_COLUMNS} for row in rows]


def test_rows_are_those_of_the_runner_in_this_process(
    tmp_path: Path,
    annotate: Annotate,
    drf: Annotate,
    output: Output,
    tiny_checkpoint: Path,
    prism: list[str],
) -> None:
    write_nights(tmp_path / "in", posts_per_file=20)
    bad = [fault.post for fault in faulty_posts()]
    write_posts(tmp_path / "in" / "dt=2026-11-17" / "more.parquet", make_posts(80) + bad)
    elsewhere = Output(tmp_path / "elsewhere")
    options = ("--shard-rows", "10")

    here = annotate(tmp_path / "in", *options)
    run = drf(*annotate_arguments(tmp_path / "in", elsewhere, tiny_checkpoint), *options, *prism)

    assert (here.code, run.code) == (0, 0), run.err
    assert run.manifest["options"]["runner"] == "PrismRunner"
    assert Path(run.manifest["report"]).is_file() and Path(here.manifest["report"]).is_file()
    assert len(elsewhere.dead_letters) == 3
    assert rows_of(elsewhere) == rows_of(output)
    assert elsewhere.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


def test_a_checkpoint_is_adapted_alike(
    tmp_path: Path, drf: Annotate, tiny_checkpoint: Path, prism: list[str]
) -> None:
    write_nights(tmp_path / "in", posts_per_file=20)
    given = ("adapt", "--posts", tmp_path / "in", "--model", tiny_checkpoint, "--output")
    for name, options in (("here", []), ("there", prism)):
        run = drf(*given, tmp_path / name, *options)
        assert run.code == 0, run.err
    here, there = (tmp_path / name / "model.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_run_repeated_computes_nothing(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int], prism: list[str]
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in", *prism)
    assert sum(inferred) == 40
    before = output.files()
    inferred.clear()

    again = annotate(tmp_path / "in", *prism)
    write_posts(paths[0], make_posts(10, first=500))
    changed = annotate(tmp_path / "in", "--no-report", *prism)

    assert changed.manifest["report"] is None
    assert (again.code, again.manifest["computed_rows"]) == (0, 0)
    assert (changed.code, changed.manifest["computed_rows"]) == (0, 10)
    assert sum(inferred) == 10
    unchanged = [name for name in before if "dt=2026-11-18" in name]
    assert unchanged and all(output.files()[name] == before[name] for name in unchanged)


def test_a_partition_with_too_many_dead_letters_is_held_back(
    tmp_path: Path, annotate: Annotate, output: Output, prism: list[str]
) -> None:
    write_nights(tmp_path / "in")
    lost = [{"post_id": f"lost{number}", "text": None, "image": None} for number in range(4)]
    write_posts(tmp_path / "in" / "dt=2026-11-17" / "lost.parquet", lost)

    run = annotate(tmp_path / "in", *prism)

    assert run.code == 3
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: partition dt=2026-11-17: held back: 4 of 24 posts")
    assert output.succeeded() == ["dt=2026-11-18"]


def test_a_file_that_fails_on_a_worker_costs_that_file_alone(
    tmp_path: Path, annotate: Annotate, output: Output, prism: list[str]
) -> None:
    paths = write_nights(tmp_path / "in")
    damage_page(paths[0])

    run = annotate(tmp_path / "in", *prism)

    assert run.code == 4
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: ") and "part-00000.parquet" in line
    assert output.succeeded() == ["dt=2026-11-18"]
    assert len(output.places()) == 30


def test_a_model_that_breaks_down_on_a_worker_ends_in_one_line_and_can_be_resumed(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    monkeypatch: pytest.MonkeyPatch,
    prism: list[str],
) -> None:
    def broken(self: Annotator, posts: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    write_nights(tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(Annotator, "predict", broken)
        run = annotate(tmp_path / "in", *prism)

    assert run.code == 1
    # Prism's workers live in this process, and print their traceback before that.
    *_, line = run.err.splitlines()
    assert line.startswith("drf: error: the model fails on every post of a batch (RuntimeError)")
    assert output.places() == []
    assert annotate(tmp_path / "in", *prism).code == 0
    assert len(output.places()) == 40


# Prism runs the workers' functions in this process, and pickles those of a module by name.
_FOUND: list[tuple[str, str]] = []


def collect(row: dict[str, Any], what: str) -> None:
    _FOUND.append((str(row["post_id"]), row[what]))


def test_posts_are_annotated_in_a_pipeline_of_ones_own(
    tiny_checkpoint: Path, prism: list[str]
) -> None:
    posts = [*make_posts(20), *(fault.post for fault in faulty_posts())]
    _FOUND.clear()

    with beam.Pipeline(options=PipelineOptions(prism)) as pipeline:
        result = pipeline | beam.Create(posts) | AnnotatePosts(str(tiny_checkpoint), device="cpu")
        _ = result.annotations | "Annotated" >> beam.Map(collect, "image_state")
        _ = result.dead_letters | "Lost" >> beam.Map(collect, "reason")

    found = dict(_FOUND)
    assert len(_FOUND) == len(posts) and len(found) == len(posts)
    for fault in faulty_posts():
        name = str(fault.post["post_id"])
        if fault.dead_letter:
            assert found[name] == fault.dead_letter
        elif fault.image_reason:
            assert found[name] == "recovered"
