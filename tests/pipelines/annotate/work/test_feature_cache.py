"""`--feature-cache`: what was encoded once is not encoded again, and the rows are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from drf_core.annotator import Annotator
from drf_core.checkpoint import encoder_revisions
from drf_core.decoding.decoders import Decoders
from tests.data.corpora import faulty_posts, make_posts, write_posts
from tests.support.running import Output, Run, annotate_arguments

DIFFERENT = ("run_id", "annotated_at", "source_file", "model_id", "model_revision")


class Work:
    """What `drf annotate` decoded and encoded in this process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.decoded = self.texts = self.images = 0

    @property
    def all(self) -> tuple[int, int, int]:
        return self.decoded, self.texts, self.images


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted = Work()
    decode = Decoders.decode
    texts, images = Annotator.encode_texts, Annotator.encode_images

    def decode_items(self: Decoders, items: Any, *limits: Any) -> Any:
        counted.decoded += sum(item.kind == "image" for item in items)
        return decode(self, items, *limits)

    def encode_texts(self: Annotator, ids: Any) -> Any:
        counted.texts += len(ids)
        return texts(self, ids)

    def encode_images(self: Annotator, pixels: Any) -> Any:
        counted.images += len(pixels)
        return images(self, pixels)

    monkeypatch.setattr(Decoders, "decode", decode_items)
    monkeypatch.setattr(Annotator, "encode_texts", encode_texts)
    monkeypatch.setattr(Annotator, "encode_images", encode_images)
    return counted


@pytest.fixture
def cached(
    tmp_path: Path, drf: Callable[..., Run], tiny_checkpoint: Path
) -> Callable[..., list[dict[str, Any]]]:
    """Annotates into a new output; returns the rows, but for what names their run and model."""
    calls = iter(range(100))

    def call(
        source: Path, *more: object, model: Path = tiny_checkpoint, cache: object = None
    ) -> list[dict[str, Any]]:
        output = Output(tmp_path / f"out-{next(calls)}")
        arguments = annotate_arguments(source, output, model)
        if cache is not None:
            arguments += ["--feature-cache", str(cache)]
        run = drf(*arguments, "--max-dead-letter-share", "1", *more)
        assert run.code == 0, run.err
        rows = [*output.annotations, *output.dead_letters]
        return [{n: v for n, v in row.items() if n not in DIFFERENT} for row in rows]

    return call


def with_another_head(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    state = load_file(folder / "model.safetensors")
    for name in state:
        if name.startswith("unimodal_heads."):
            state[name] = -state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_head_on_the_same_encoders_decodes_and_encodes_nothing(
    tmp_path: Path, cached: Callable[..., Any], tiny_checkpoint: Path, work: Work
) -> None:
    posts = [*make_posts(40), *(fault.post for fault in faulty_posts())]
    source = write_posts(tmp_path / "posts.parquet", posts)
    other = with_another_head(tiny_checkpoint, tmp_path / "other")
    plain = cached(source)
    first = cached(source, cache=tmp_path / "cache")
    expected = cached(source, model=other)
    assert first == plain != expected
    assert work.texts > 40 and work.images > 40
    work.clear()

    again = cached(source, model=other, cache=tmp_path / "cache")

    assert again == expected
    assert work.texts == work.images == 0
    # What could not be used has no features, and is looked at again.
    assert work.decoded == len(["html", "truncated", "bomb", "blank-and-html"])


def test_a_night_that_overlaps_costs_only_what_is_new(
    tmp_path: Path, cached: Callable[..., Any], work: Work
) -> None:
    cached(write_posts(tmp_path / "one.parquet", make_posts(30)), cache="memory://cache-of-nights")
    work.clear()
    two = write_posts(tmp_path / "two.parquet", make_posts(30, first=20))

    rows = cached(two, cache="memory://cache-of-nights")

    assert work.all == (20, 20, 20)
    (manifest,) = tmp_path.glob("out-1/_runs/*/manifest.json")
    counts = json.loads(manifest.read_text())["counts"]
    assert (counts["cache_lookups"], counts["cache_hits"]) == (60, 20)
    assert rows == cached(two)


@pytest.mark.parametrize("change", ["encoder", "limit"])
def test_another_encoder_or_limit_finds_nothing_of_the_first(
    tmp_path: Path,
    cached: Callable[..., Any],
    make_tiny_checkpoint: Callable[..., Path],
    tiny_checkpoint: Path,
    work: Work,
    change: str,
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(10))
    cached(source, cache=tmp_path / "cache")
    work.clear()
    model = make_tiny_checkpoint(seed=7) if change == "encoder" else tiny_checkpoint
    options = ("--max-image-pixels", "100") if change == "limit" else ()

    rows = cached(source, *options, model=model, cache=tmp_path / "cache")

    assert work.all == ((10, 10, 10) if change == "encoder" else (10, 0, 0))
    assert {row["image_reason"] for row in rows} == {"too_large" if options else None}


def test_a_cache_that_lost_files_is_filled_again(
    tmp_path: Path, cached: Callable[..., Any], work: Work
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(10))
    cache = tmp_path / "cache"
    expected = cached(source, cache=cache)
    for path in cache.rglob("*.features"):
        path.unlink()
    work.clear()

    assert cached(source, cache=cache) == expected
    assert work.all == (10, 10, 10)


def test_an_encoders_revision_is_that_of_its_weights_and_preprocessing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    revisions = encoder_revisions(str(tiny_checkpoint))
    other = with_another_head(tiny_checkpoint, tmp_path / "other")
    assert encoder_revisions(str(other)) == revisions
    preprocessing = other / "preprocessor_config.json"
    preprocessing.write_text(preprocessing.read_text().replace("32", "48"))
    changed = encoder_revisions(str(other))
    assert changed["image"] != revisions["image"]
    assert changed["text"] == revisions["text"]
