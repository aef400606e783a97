"""The checkpoint that ships in the package: small, safe, calibrated, and as its card says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from drf_core.annotator import Annotator, Prediction, PreparedPost
from drf_core.checkpoint import read_checkpoint
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model

FOLDER = Path(resolve_model(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.from_pretrained(str(FOLDER), device="cpu")


def predict(annotator: Annotator, posts: list[PreparedPost]) -> list[Prediction]:
    return [p for i in range(0, len(posts), 64) for p in annotator.predict(posts[i : i + 64])]


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_it_knows_the_three_sentiments() -> None:
    assert read_checkpoint(str(FOLDER)).labels == ("negative", "neutral", "positive")


def test_it_tells_plain_sentiments_apart(annotator: Annotator) -> None:
    texts = ["I love this, what a wonderful happy day", "this is terrible, I am so sad and angry"]
    labels = [p.label for p in predict(annotator, [annotator.prepare(t, None) for t in texts])]
    assert labels == ["positive", "negative"]


def test_its_card_tells_the_truth(annotator: Annotator, shared: Path) -> None:
    rows = pq.read_table(shared / "corpora/mvsa_single/dev.parquet").to_pylist()
    predictions = predict(annotator, [annotator.prepare(r["text"], r["image"]) for r in rows])
    accuracy = np.mean([p.label == r["label"] for p, r in zip(predictions, rows, strict=True)])
    stated = re.search(r"\| clean \| ([0-9.]+) ", (FOLDER / "README.md").read_text())
    assert stated and accuracy == pytest.approx(float(stated[1]), abs=0.01)


def test_its_qualities_are_calibrated_on_original_size_posts(
    annotator: Annotator, shared: Path
) -> None:
    prepared = []
    for path in sorted((shared / "corpora/nightly").glob("*/*.parquet")):
        for row in pq.read_table(path, columns=["text", "image"]).to_pylist():
            image = row["image"]
            data = image["bytes"] if isinstance(image, dict) else image
            prepared.append(annotator.prepare(row["text"], data))
    predictions = predict(annotator, [post for post in prepared if post.usable])
    for modality in ("text", "image"):
        found = [getattr(p, modality) for p in predictions]
        quality = np.array([m.quality for m in found if m.reason is None])
        assert len(quality) > 600
        assert 0.03 <= (quality < 0.05).mean() <= 0.07, modality
