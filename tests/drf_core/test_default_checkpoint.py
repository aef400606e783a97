"""The checkpoint that ships in the package: small, safe, calibrated, and as its card says."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from drf_core.annotator import UNFAMILIAR, Annotator, Prediction, PreparedPost
from drf_core.checkpoint import DEFAULT_FOLDER, read_checkpoint
from drf_core.evaluation.metrics import auroc
from pipelines.sample.command import make_sample
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from tests.conftest import SHARED
from tests.data.non_posts import NOT_POSTS, PLAIN_POSTS, SHORT_POSTS, not_photographs
from tests.data.plain_sentences import PLAIN_SENTENCES

FOLDER = Path(resolve_model(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.from_pretrained(str(FOLDER), device="cpu")


def predict(annotator: Annotator, posts: list[PreparedPost]) -> list[Prediction]:
    return [p for i in range(0, len(posts), 64) for p in annotator.predict(posts[i : i + 64])]


def read(annotator: Annotator, *texts: str) -> list[Prediction]:
    return predict(annotator, [annotator.prepare(text, None) for text in texts])


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_it_knows_the_three_sentiments() -> None:
    assert read_checkpoint(str(FOLDER)).labels == ("negative", "neutral", "positive")


def test_it_tells_plain_sentiments_apart(annotator: Annotator) -> None:
    said = read(annotator, *(text for text, _ in PLAIN_SENTENCES))
    wrong = [
        (text, label, prediction.label)
        for (text, label), prediction in zip(PLAIN_SENTENCES, said, strict=True)
        if prediction.label != label
    ]
    assert len(wrong) <= 0.15 * len(PLAIN_SENTENCES), wrong


def test_it_assumes_every_label_as_likely_as_the_others(annotator: Annotator) -> None:
    assert annotator.model.config.label_prior == pytest.approx([1 / 3] * 3)


def test_qualities_tell_english_posts_from_other_languages_and_what_is_no_text(
    annotator: Annotator,
) -> None:
    posts, others = (
        np.array([p.text.quality for p in read(annotator, *texts)])
        for texts in (PLAIN_POSTS, NOT_POSTS)
    )
    assert auroc(posts, others) >= 0.9


def test_a_plain_text_is_not_of_low_quality_for_being_short(annotator: Annotator) -> None:
    low = [
        text
        for text, said in zip(SHORT_POSTS, read(annotator, *SHORT_POSTS), strict=True)
        if said.text.state == "low_quality"
    ]
    assert len(low) <= 0.2 * len(SHORT_POSTS), low


def photographs(folder: Path) -> list[bytes]:
    """Of real posts where they lie beside the repository, else those of the sample."""
    posts = SHARED / "corpora" / "mvsa_single" / "dev.parquet"
    if posts.exists():
        return pq.read_table(posts, columns=["image"])["image"].to_pylist()[:120]
    make_sample(folder)
    images = [
        row["image"]
        for path in sorted(folder.rglob("*.parquet"))
        for row in pq.read_table(path, columns=["image"]).to_pylist()
    ]
    found = [image["bytes"] if isinstance(image, dict) else image for image in images]
    return [image for image in found if image]


def test_qualities_tell_photographs_from_noise_patterns_charts_and_code(
    annotator: Annotator, tmp_path: Path
) -> None:
    drawn = []
    for picture in not_photographs(60):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        drawn.append(buffer.getvalue())
    qualities = []
    for images in (photographs(tmp_path), drawn):
        prepared = [annotator.prepare(None, image) for image in images]
        said = predict(annotator, [post for post in prepared if post.has_image])
        qualities.append(np.array([p.image.quality for p in said]))
    assert auroc(*qualities) >= 0.9


def test_low_quality_of_what_is_no_english_post_is_named(annotator: Annotator) -> None:
    low = [p.text for p in read(annotator, *NOT_POSTS) if p.text.state == "low_quality"]
    assert len(low) >= len(NOT_POSTS) / 2
    kinds = annotator.model.config.trained_kinds["text"]
    assert {one.damage for one in low} <= {*kinds, UNFAMILIAR}


def test_it_knows_how_many_posts_its_qualities_are_ranks_among(annotator: Annotator) -> None:
    for modality in ("text", "image"):
        assert int(annotator.model.quality[modality].reference.posts) >= 300


def test_its_card_tells_the_truth(annotator: Annotator, shared: Path) -> None:
    rows = pq.read_table(shared / "corpora/mvsa_single/dev.parquet").to_pylist()
    predictions = predict(annotator, [annotator.prepare(r["text"], r["image"]) for r in rows])
    accuracy = np.mean([p.label == r["label"] for p, r in zip(predictions, rows, strict=True)])
    # The first table is under the checkpoint's own prior.
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


def test_the_readme_says_what_the_card_says() -> None:
    card = (DEFAULT_FOLDER / "README.md").read_text(encoding="utf-8")
    readme = (DEFAULT_FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    cells = ("clean", "text corrupt", "text discard", "image corrupt", "image discard")
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    found = {cell: [row for row in rows if row[0] == cell] for cell in cells}
    f1 = " | ".join(found[cell][0][3].removeprefix("0") for cell in cells)
    accuracy = " | ".join(found[cell][1][1].removeprefix("0") for cell in cells)
    assert f"| macro F1, uniform prior | {f1} |" in readme
    assert f"| accuracy, the posts' prior | {accuracy} |" in readme
