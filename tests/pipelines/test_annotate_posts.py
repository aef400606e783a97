"""AnnotatePosts: the model as a transform in a pipeline of one's own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import fsspec
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from drf_core.annotator import Annotator
from pipelines.annotate.engines.model_handler import DRFModelHandler
from pipelines.annotate.work.model import ModelOptions
from pipelines.annotate_posts import AnnotatePosts
from schemas.annotations import ANNOTATION_COLUMNS
from schemas.errors import DRFError, UsageError
from tests.data.corpora import faulty_posts, make_posts

# The runner works in this process, and pickles functions of a module by their name.
_FOUND: dict[str, list[Any]] = {}


def collect(row: dict[str, Any], name: str) -> None:
    _FOUND[name].append(row)


def annotate(posts: Sequence[dict[str, Any]], **options: Any) -> tuple[list[Any], list[Any]]:
    """Annotations and dead letters of posts, through a real runner, in the order of post_id."""
    _FOUND.update(annotations=[], dead_letters=[])
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        result = pipeline | beam.Create(list(posts)) | AnnotatePosts(device="cpu", **options)
        for name in _FOUND:
            _ = getattr(result, name) | name >> beam.Map(collect, name)
    for rows in _FOUND.values():
        rows.sort(key=lambda row: str(row["post_id"]))
    return _FOUND["annotations"], _FOUND["dead_letters"]


def test_every_post_is_an_annotation_or_a_dead_letter(tiny_checkpoint: Path) -> None:
    faults = faulty_posts()
    posts = [*make_posts(20), *(fault.post for fault in faults)]

    annotations, dead_letters = annotate(posts, model=str(tiny_checkpoint))

    assert len(annotations) + len(dead_letters) == len(posts)
    by_id = {row["post_id"]: row for row in annotations}
    for fault in faults:
        if fault.dead_letter is None:
            row = by_id[fault.name]
            assert (row["text_reason"], row["image_reason"]) == (
                fault.text_reason,
                fault.image_reason,
            )
    expected = [fault.dead_letter for fault in faults if fault.dead_letter]
    assert sorted(row["reason"] for row in dead_letters) == sorted(expected)
    assert set(dead_letters[0]) == {"post_id", "stage", "reason", "message"}


def test_annotations_have_the_columns_of_the_job(tiny_checkpoint: Path) -> None:
    [row], _ = annotate(make_posts(1), model=str(tiny_checkpoint))

    assert list(row) == [
        name for name in ANNOTATION_COLUMNS if name not in ("source_file", "source_row", "run_id")
    ]
    assert set(row["probabilities"]) == {"negative", "neutral", "positive"}


def test_fields_may_be_absent_and_ids_be_numbers(tiny_checkpoint: Path) -> None:
    annotations, dead_letters = annotate(
        [{"post_id": 7, "text": "sunny"}, {"text": "nobody's"}, {"post_id": 8.0, "text": "rain"}],
        model=str(tiny_checkpoint),
    )

    assert [(row["post_id"], row["image_state"]) for row in annotations] == [
        ("7", "recovered"),
        ("8", "recovered"),
    ]
    assert [row["reason"] for row in dead_letters] == ["no_post_id"]


def test_an_image_may_be_text(tiny_checkpoint: Path) -> None:
    [first, second, third] = make_posts(3)
    held = base64.b64encode(first["image"])
    first["image"] = held.decode()
    second["image"] = held
    third |= {"image": None, "image_uri": f"data:image/jpeg;base64,{held.decode()}"}

    annotations, _ = annotate([first, second, third], model=str(tiny_checkpoint))

    assert [row["image_reason"] for row in annotations] == [None] * 3


def test_annotations_name_the_model_without_credentials(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{tiny_checkpoint}/", "/me:hunter2@models/tiny/", recursive=True)

    [row], _ = annotate(make_posts(1), model="memory://me:hunter2@models/tiny")

    assert row["model_id"] == "memory://models/tiny"


def test_kept_fields_travel_through(tiny_checkpoint: Path) -> None:
    posts = [{**post, "language": "en"} for post in make_posts(3)]

    annotations, _ = annotate(posts, model=str(tiny_checkpoint), keep=["language"])

    assert [row["language"] for row in annotations] == ["en"] * 3


def test_a_post_the_model_fails_on_does_not_cost_its_batch(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Annotator.predict

    def failing(self: Annotator, posts: Sequence[Any]) -> list[Any]:
        if any(post.token_ids is not None and len(post.token_ids) > 90 for post in posts):
            raise RuntimeError("no such shape")
        return predict(self, posts)

    monkeypatch.setattr(Annotator, "predict", failing)
    posts = make_posts(20)
    posts[3]["text"] = "sunny " * 200

    annotations, dead_letters = annotate(posts, model=str(tiny_checkpoint))

    assert len(annotations) == 19
    assert [(row["post_id"], row["reason"]) for row in dead_letters] == [("p3", "model_failed")]


def test_bad_arguments_fail_before_the_pipeline_runs(tiny_checkpoint: Path) -> None:
    with pytest.raises(DRFError, match="no such folder"):
        AnnotatePosts("./no/such/model")
    with pytest.raises(UsageError, match="label"):
        AnnotatePosts(str(tiny_checkpoint), keep=["label"])


def test_the_model_is_loaded_once_per_process(
    tiny_checkpoint: Path, make_tiny_checkpoint: Callable[..., Path]
) -> None:
    handler, same = (
        DRFModelHandler(ModelOptions(str(tiny_checkpoint), device="cpu")) for _ in range(2)
    )
    other = DRFModelHandler(ModelOptions(str(make_tiny_checkpoint(seed=5)), device="cpu"))

    loaded = handler.load_model()
    other_loaded = other.load_model()

    assert same.load_model() is loaded
    assert other.load_model() is other_loaded is not loaded


def test_a_batch_is_weighed_without_pickling_it() -> None:
    handler = DRFModelHandler(ModelOptions("default"))

    assert handler.get_num_bytes([object()] * 3) == 3  # type: ignore[list-item]


def test_posts_may_hold_what_tables_put_in_the_place_of_values() -> None:
    nan = float("nan")
    picture = make_posts(1)[0]["image"]
    posts: list[Any] = [
        {"post_id": "a", "text": "a fine day", "image": nan, "image_uri": nan},
        {"post_id": "b", "text": nan, "image": {"bytes": picture, "path": None}},
        {"post_id": "c", "text": 12, "image": {"bytes": None, "path": "relative.jpg"}},
        {"post_id": 4, "text": b"bytes \xff", "image": [1, 2]},
        {"post_id": nan, "text": "no id"},
        {"post_id": "f", "text": ["a", "list"], "image": bytearray(picture)},
        {"post_id": "g", "text": "x" * 3_000_000, "image": object},
    ]
    annotations, dead_letters = annotate(posts)
    assert [row["post_id"] for row in annotations] == ["4", "a", "b", "c", "f", "g"]
    assert [row["image_reason"] for row in annotations] == [
        *("undecodable", "missing", None, "not_allowed", None, "undecodable")
    ]
    assert [row["reason"] for row in dead_letters] == ["no_post_id"]
