"""Every runtime gives the labels of torch f32 on images decoded in full.

The reference takes the long way: Pillow's full decode (no draft mode), the encoder's own image
processor, torch in full precision. What is compared takes the way of the job. With real posts
beside the repository: the development posts among the nights, at original size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from drf_core.annotator import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, Annotator, Prediction
from drf_core.checkpoint import DEFAULT_MODEL, resolve_model
from drf_core.images import decode_image
from drf_core.runtimes.choice import choose_runtime
from pipelines.sample import make_sample
from tests.conftest import SHARED

# Share of posts with the same label.
LEAST = 0.995
# Qualities are ranks among some hundred reference posts, and in a dense part a small change of
# the features passes several: the mean says what a reader of diagnostics sees.
# Draft decoding alone moved image qualities by .016 on average on the default checkpoint.
MEAN_QUALITY_DIFFERENCE = 0.03


class Post(NamedTuple):
    text: str | None
    image: bytes | None


def read_posts(paths: list[Path], ids: set[str] | None = None) -> list[Post]:
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    chosen = [r for r in rows if ids is None or (r["post_id"] and str(r["post_id"])[1:] in ids)]
    images = [r["image"] for r in chosen]
    whole = [image["bytes"] if isinstance(image, dict) else image for image in images]
    return [Post(r["text"], image) for r, image in zip(chosen, whole, strict=True)]


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> list[Post]:
    """The development posts of the nights; without them the sample corpus."""
    corpora = SHARED / "corpora"
    if not corpora.is_dir():
        folder = tmp_path_factory.mktemp("sample")
        make_sample(folder)
        return read_posts(sorted(folder.rglob("*.parquet")))
    dev = pq.read_table(corpora / "mvsa_single" / "dev.parquet", columns=["post_id"])["post_id"]
    ids = {str(post_id) for post_id in dev.to_pylist()}
    return read_posts(sorted((corpora / "nightly").rglob("*.parquet")), ids)


@torch.no_grad()
def reference(annotator: Annotator, posts: list[Post]) -> list[Prediction]:
    """Predictions by the long way."""
    said: list[Prediction] = []
    process = annotator.processor.image_processor
    for start in range(0, len(posts), 16):
        part = [annotator.prepare(*post) for post in posts[start : start + 16]]
        usable = [(p, post) for p, post in zip(part, posts[start:], strict=False) if p.usable]
        images = []
        for prepared, post in usable:
            if prepared.pixels is not None:
                picture, _ = decode_image(
                    post.image, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES
                )
                images.append(process(picture, return_tensors="pt")["pixel_values"][0])
        texts = [p.token_ids for p, _ in usable if p.token_ids is not None]
        features = annotator.model.encode_image(torch.stack(images)) if images else None
        text = annotator.encode_texts(texts) if texts else None
        said += annotator.conclude([p for p, _ in usable], text, features)
    return said


def compare(
    folder: Path, posts: list[Post], runtimes: list[str], expected: list[Prediction]
) -> None:
    assert len({p.label for p in expected}) > 1 and len(expected) >= 15
    for runtime in runtimes:
        annotator = Annotator.from_pretrained(str(folder), "cpu", 0, runtime)
        prepared = [p for p in (annotator.prepare(*post) for post in posts) if p.usable]
        found = [
            p
            for start in range(0, len(prepared), 64)
            for p in annotator.predict(prepared[start : start + 64])
        ]
        same = np.mean([a.label == b.label for a, b in zip(expected, found, strict=True)])
        differences = {
            m: float(
                np.mean(
                    [
                        abs(getattr(a, m).quality - getattr(b, m).quality)
                        for a, b in zip(expected, found, strict=True)
                    ]
                )
            )
            for m in ("text", "image")
        }
        print(f"{runtime}: {same:.2%} of {len(found)} labels, quality {differences}")
        assert same >= LEAST, runtime
        assert max(differences.values()) <= MEAN_QUALITY_DIFFERENCE, runtime


def runtimes() -> list[str]:
    """What this processor runs: auto is bf16 where that is native."""
    native = choose_runtime("auto", "cpu").precision == "bf16"
    return ["torch", "openvino-f32", *(["openvino-bf16"] if native else [])]


def test_the_default_checkpoint_says_the_same_on_every_runtime(posts: list[Post]) -> None:
    folder = Path(resolve_model(DEFAULT_MODEL))
    expected = reference(Annotator.from_pretrained(str(folder), device="cpu"), posts)
    compare(folder, posts, runtimes(), expected)
