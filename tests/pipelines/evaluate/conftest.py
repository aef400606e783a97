"""Three checkpoints, labelled posts, and what `drf evaluate` says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.annotator import Annotator
from tests.conftest import LABELS
from tests.data.corpora import image_bytes
from tests.support.running import Run

TEXT = {"negative": "bad rainy day", "neutral": "day in the town", "positive": "good sunny day"}


def write_labelled(
    path: Path, count: int = 36, labels: tuple[str | None, ...] = LABELS, **columns: list[Any]
) -> Path:
    """Posts with a label each; columns replace what is made here."""
    drawn = [labels[number % len(labels)] for number in range(count)]
    made: dict[str, Any] = {
        "post_id": [f"p{number}" for number in range(count)],
        "text": [f"{TEXT.get(str(label), 'some day')} {n}" for n, label in enumerate(drawn)],
        "image": [image_bytes(number) for number in range(count)],
        "label": pa.array(drawn, pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**made, **columns}), path)
    return path


def records(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "results.parquet").to_pylist()


def of(made: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in made if all(r[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("posts") / "dev.parquet")


def give_opinions(source: Path, folder: Path, posts: Path, strength: float) -> Path:
    """A copy of a checkpoint that calls the posts different labels: logits centred, stretched."""
    import torch

    annotator = Annotator.from_pretrained(str(source), device="cpu", threads=1)
    table = pq.read_table(posts).to_pydict()
    prepared = [
        annotator.prepare(*post) for post in zip(table["text"], table["image"], strict=True)
    ]
    said = np.log([prediction.probabilities for prediction in annotator.predict(prepared)])
    [*_, bias] = [b for b in annotator.model.fusion.parameters() if b.shape == (len(LABELS),)]
    with torch.no_grad():
        bias -= torch.tensor(said.mean(0), dtype=bias.dtype)
        annotator.model.temperature.fill_(1 / strength)
    annotator.model.save_pretrained(folder)
    annotator.processor.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def checkpoints(
    make_tiny_checkpoint: Callable[..., Path],
    posts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Three models: one, other, and one's twin, which says the opposite."""
    folder = tmp_path_factory.mktemp("checkpoints")
    give_opinions(make_tiny_checkpoint(seed=0), folder / "one", posts, 20.0)
    give_opinions(make_tiny_checkpoint(seed=1), folder / "other", posts, 20.0)
    give_opinions(make_tiny_checkpoint(seed=0), folder / "twin", posts, -20.0)
    return folder


Evaluate = Callable[..., Run]


@pytest.fixture
def evaluate(drf: Callable[..., Run], checkpoints: Path, posts: Path, tmp_path: Path) -> Evaluate:
    """Calls `drf evaluate`; without models it compares other with one."""

    def call(*arguments: object, models: tuple[str, ...] = ("other", "one")) -> Run:
        named = [f"--model={checkpoints / model}" for model in models]
        given = [] if "--posts" in arguments else ["--posts", posts]
        common = ["--output", tmp_path / "out", "--device", "cpu", "--threads", "1"]
        return drf("evaluate", *named, *given, *common, *arguments)

    return call


@pytest.fixture(scope="module")
def evaluated(checkpoints: Path, posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of comparing other and one."""
    from pipelines.cli import main

    output = tmp_path_factory.mktemp("evaluated")
    models = [f"--model={checkpoints / name}" for name in ("other", "one")]
    arguments = [*models, "--posts", str(posts), "--output", str(output), "--device", "cpu"]
    assert main(["evaluate", *arguments, "--threads", "1"]) == 0
    return output
