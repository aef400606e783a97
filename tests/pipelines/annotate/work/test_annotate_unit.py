"""One work unit, whole, on one worker: what it stages, skips and leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from drf_core.annotator import Annotator
from pipelines.annotate.job import JobOptions, RowOptions
from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import list_attempts
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.annotate.work import annotate_unit, stream
from pipelines.storage.files import open_store
from tests.data.corpora import faulty_posts, make_posts, odd_posts, write_posts
from tests.support.nights.work_units import (
    annotate,
    annotations,
    dead_letters,
    shards_of,
    staging_files,
)


def test_each_row_becomes_one_annotation_in_source_order(
    tmp_path: Path, options: JobOptions
) -> None:
    path = write_posts(tmp_path / "posts.parquet", make_posts(50), row_group_rows=7)
    [shard] = shards_of(path)

    [outcome] = annotate([shard], options)

    assert (outcome.rows, outcome.computed, outcome.failure) == (50, 50, None)
    rows = annotations(shard, options)
    assert [row["source_row"] for row in rows] == list(range(50))
    assert [row["post_id"] for row in rows] == [f"p{n}" for n in range(50)]
    for row in rows:
        assert row["label"] in options.labels
        assert set(row["probabilities"]) == set(options.labels)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        for name in ("text", "image"):
            assert math.isfinite(row[f"{name}_evidence"])
            assert (row[f"{name}_damage"] is not None) == (row[f"{name}_state"] == "low_quality")
        assert row["text_share_read"] == 1
        assert row["source_file"] == "posts.parquet"
        assert row["model_id"] == "tiny"
        assert row["model_revision"] == options.model_revision
        assert row["annotated_at"].utcoffset().total_seconds() == 0


def test_every_fault_ends_in_its_state_reason_or_dead_letter(
    tmp_path: Path, options: JobOptions
) -> None:
    faults = faulty_posts()
    path = write_posts(tmp_path / "posts.parquet", [fault.post for fault in faults])
    [shard] = shards_of(path)

    annotate([shard], options)

    by_row = {row["source_row"]: row for row in annotations(shard, options)}
    letters = {row["source_row"]: row for row in dead_letters(shard, options)}
    assert sorted([*by_row, *letters]) == list(range(len(faults)))
    for number, fault in enumerate(faults):
        if fault.dead_letter:
            assert letters[number]["reason"] == fault.dead_letter, fault.name
            assert letters[number]["post_id"] == fault.post["post_id"]
            continue
        for name, reason in (("text", fault.text_reason), ("image", fault.image_reason)):
            assert by_row[number][f"{name}_reason"] == reason, fault.name
            recovered = by_row[number][f"{name}_state"] == "recovered"
            assert recovered == (reason is not None), fault.name


def test_odd_posts_are_used_as_they_come(tmp_path: Path, options: JobOptions) -> None:
    path = write_posts(tmp_path / "posts.parquet", odd_posts())
    [shard] = shards_of(path)

    annotate([shard], options)

    for row in annotations(shard, options):
        assert row["text_reason"] is None, row["post_id"]
        assert row["image_reason"] is None, row["post_id"]
    assert dead_letters(shard, options) == []


def test_dead_letters_say_at_which_stage_and_quote_nothing(
    tmp_path: Path, options: JobOptions
) -> None:
    posts = [
        {"post_id": "  ", "text": "sunny secret", "image": None},
        {"post_id": "a", "text": "\t", "image": None},
        {"post_id": "b", "text": None, "image": b"<html>secret</html>"},
    ]
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", posts))

    annotate([shard], options)

    letters = dead_letters(shard, options)
    assert [(row["stage"], row["reason"]) for row in letters] == [
        ("check", "no_post_id"),
        ("check", "no_usable_modality"),
        ("decode", "no_usable_modality"),
    ]
    assert "secret" not in json.dumps(letters)


def test_batches_reach_across_shards_and_rows_stay_in_theirs(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Annotator.predict
    monkeypatch.setattr(
        Annotator, "predict", lambda self, posts: sizes.append(len(posts)) or predict(self, posts)
    )
    one = shards_of(write_posts(tmp_path / "one.parquet", make_posts(10)), rows=3)
    two = shards_of(write_posts(tmp_path / "two.parquet", make_posts(6, first=10)), rows=6)

    outcomes = annotate([*one, *two], options)

    assert sizes == [8, 8]
    assert [outcome.key for outcome in outcomes] == [shard.key for shard in [*one, *two]]
    for shard in [*one, *two]:
        expected = list(range(shard.first_row, shard.first_row + shard.rows))
        assert [row["source_row"] for row in annotations(shard, options)] == expected


def test_posts_of_the_same_content_are_annotated_once_and_alike(
    tmp_path: Path, options: JobOptions, inferred: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    prepare = Annotator.prepare
    monkeypatch.setattr(
        Annotator,
        "prepare",
        lambda self, *content, **how: decoded.append(content) or prepare(self, *content, **how),
    )
    both, text, image, broken, nothing = (
        make_posts(1)[0],
        {"text": "sunny", "image": None},
        {"text": None, "image": make_posts(8)[7]["image"]},
        {"text": "sunny", "image": b"<html>"},
        {"text": " ", "image": b"<html>"},
    )
    kinds = [both, text, image, broken, nothing]
    others = make_posts(3, first=1)
    others[0]["text"], others[1]["image"] = both["text"], both["image"]
    contents = [*kinds, *others, *kinds, *reversed(kinds)]
    posts = [{**post, "post_id": f"p{number}"} for number, post in enumerate(contents)]
    shards = shards_of(write_posts(tmp_path / "posts.parquet", posts), rows=6)

    annotate(shards, options)

    assert sum(inferred) == 7
    assert len(decoded) == 8
    rows = {row["source_row"]: row for shard in shards for row in annotations(shard, options)}
    letters = {row["source_row"]: row for shard in shards for row in dead_letters(shard, options)}
    assert sorted([*rows, *letters]) == list(range(len(posts)))
    own = ("post_id", "source_row", "annotated_at")
    for first, places in enumerate([(8, 17), (9, 16), (10, 15), (11, 14), (12, 13)]):
        found = rows if first in rows else letters
        for row in (first, *places):
            assert found[row]["post_id"] == f"p{row}"
            assert all(found[row][n] == found[first][n] for n in found[first] if n not in own)
    assert list(letters) == [4, 12, 13]


def test_rows_of_one_content_are_not_all_held_until_a_batch_is_full(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    read: list[int] = []
    chunk, write = stream._chunk, annotate_unit._Annotation._write

    def reading(*arguments: Any) -> Any:
        read.append(arguments[2])
        return chunk(*arguments)

    def writing(annotation: Any, item: stream.Chunk) -> None:
        write(annotation, item)
        written.append(max(read) - item.first_row)

    monkeypatch.setattr(annotate_unit, "_MOST_HELD", 1 << 20)
    monkeypatch.setattr(stream, "_chunk", reading)
    monkeypatch.setattr(annotate_unit._Annotation, "_write", writing)
    # In the file one value, of which each batch is a megabyte.
    posts = [{"post_id": f"p{n}", "text": "sunny", "page": "x" * 10_000} for n in range(4000)]
    types = dict.fromkeys(("post_id", "text", "page"), pa.string()) | {"image": pa.binary()}
    path = write_posts(tmp_path / "posts.parquet", posts, types=types)
    rows = dataclasses.replace(options.rows, keep=("page",))

    annotate(shards_of(path), dataclasses.replace(options, rows=rows))

    assert len(written) > 10 and max(written) < 2000


def test_a_content_that_comes_again_much_later_is_computed_again(
    tmp_path: Path, options: JobOptions, inferred: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_ANSWERS", 4)
    posts = [*make_posts(10), *make_posts(10), *make_posts(2, first=8)]
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", posts))

    annotate([shard], options)

    assert sum(inferred) == 20
    assert [row["post_id"] for row in annotations(shard, options)] == [p["post_id"] for p in posts]


def test_the_same_unit_gives_the_same_rows_again(tmp_path: Path, options: JobOptions) -> None:
    path = write_posts(tmp_path / "posts.parquet", make_posts(40), row_group_rows=9)
    [shard] = shards_of(path)
    again = dataclasses.replace(options, output=str(tmp_path / "again"))

    annotate([shard], options)
    annotate([shard], again)

    def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "annotated_at": None} for row in rows]

    assert without_time(annotations(shard, options)) == without_time(annotations(shard, again))


def test_kept_columns_travel_through_untouched(tmp_path: Path, options: JobOptions) -> None:
    types = {
        "post_id": pa.int64(),
        "text": pa.dictionary(pa.int32(), pa.string()),
        "image": pa.binary(),
        "language": pa.dictionary(pa.int8(), pa.string()),
        "tags": pa.list_(pa.string()),
    }
    posts = [
        {**post, "post_id": number, "language": "en" if number % 2 else None, "tags": ["a"]}
        for number, post in enumerate(make_posts(5))
    ]
    posts[2] |= {"text": None, "image": None}
    path = write_posts(tmp_path / "posts.parquet", posts, types=types)
    keeping = dataclasses.replace(options, rows=RowOptions(keep=("tags", "language")))
    [shard] = shards_of(path)

    annotate([shard], keeping)

    rows = annotations(shard, keeping)
    assert [row["post_id"] for row in rows] == ["0", "1", "3", "4"]
    assert [row["language"] for row in rows] == [None, "en", "en", None]
    assert all(row["tags"] == ["a"] for row in rows)
    assert list(rows[0])[-2:] == ["tags", "language"]


def test_images_behind_uris_are_fetched_only_below_the_prefixes(
    tmp_path: Path, options: JobOptions
) -> None:
    allowed = tmp_path / "pictures"
    allowed.mkdir()
    (allowed / "one.jpg").write_bytes(make_posts(1)[0]["image"])
    (tmp_path / "secret.jpg").write_bytes(make_posts(1)[0]["image"])
    uris = {
        "fetched": str(allowed / "one.jpg"),
        "gone": str(allowed / "none.jpg"),
        "outside": str(tmp_path / "secret.jpg"),
        "climbing": str(allowed / ".." / "secret.jpg"),
    }
    path = write_posts(
        tmp_path / "posts.parquet",
        [{"post_id": name, "text": "sunny", "image_uri": uri} for name, uri in uris.items()],
        types={"post_id": pa.string(), "text": pa.string(), "image_uri": pa.string()},
    )
    fetching = dataclasses.replace(options, rows=RowOptions(image_uri_prefixes=(str(allowed),)))
    [shard] = shards_of(path)

    annotate([shard], fetching)

    reasons = {row["post_id"]: row["image_reason"] for row in annotations(shard, fetching)}
    assert reasons == {
        "fetched": None,
        "gone": "gone",
        "outside": "not_allowed",
        "climbing": "not_allowed",
    }


def test_a_file_without_rows_is_committed_like_any_other(
    tmp_path: Path, options: JobOptions
) -> None:
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", []))

    [outcome] = annotate([shard], options)

    assert outcome.failure is None
    assert annotations(shard, options) == dead_letters(shard, options) == []


def test_a_committed_shard_is_skipped_without_inference(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(20)), rows=10)
    annotate(shards[:1], options)
    parts = staging_files(options, layout.STAGED_PARTS)
    seen: list[int] = []
    predict = Annotator.predict
    monkeypatch.setattr(
        Annotator, "predict", lambda self, posts: seen.append(len(posts)) or predict(self, posts)
    )

    outcomes = annotate(shards, options)

    assert [outcome.computed for outcome in outcomes] == [0, outcomes[1].rows]
    assert (outcomes[0].rows, outcomes[0].failure) == (10, None)
    assert sum(seen) == 10
    assert set(parts) <= set(staging_files(options, layout.STAGED_PARTS))


def test_a_unit_run_twice_or_by_two_processes_at_once_counts_once(
    tmp_path: Path, options: JobOptions
) -> None:
    shards = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(60)), rows=20)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        both = pool.starmap(annotate, [(shards, options)] * 2)

    for outcomes in both:
        assert [(outcome.rows, outcome.failure) for outcome in outcomes] == [(20, None)] * 3
    assert committed_keys(open_store(options.output)) == {shard.key for shard in shards}
    # The loser of each shard removed its own part: one per shard is left.
    assert len(staging_files(options, layout.STAGED_PARTS)) == 3
    assert list_attempts(open_store(options.output)) == []
    again = annotate(shards, options)
    assert not any(outcome.computed for outcome in again)
