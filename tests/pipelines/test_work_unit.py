"""One work unit, whole, on one worker: what it stages, skips, gives up, and leaves behind."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.annotator import Annotator
from pipelines import layout, post_stream
from pipelines.closing import close_partition
from pipelines.inputs import open_input, read_footer
from pipelines.model_handler import DRFModelHandler
from pipelines.partitions import PartitionTask
from pipelines.plan import FailedFile, JobOptions, RowOptions, Shard, ShardOutcome, WorkUnit
from pipelines.staging import committed_keys, find_commit, list_attempts, start_attempt
from pipelines.store import open_store
from pipelines.work_unit import annotate_unit
from tests.data.corpora import damage_page, faulty_posts, make_posts, odd_posts, write_posts
from tests.pipelines.running import job_options


@pytest.fixture
def options(tmp_path: Path, tiny_checkpoint: Path) -> JobOptions:
    return job_options(tiny_checkpoint, tmp_path / "out", batch_size=8, threads=1)


def shards_of(path: Path, rows: int | None = None) -> list[Shard]:
    """Shards of `rows` rows each over one file, cut without regard to row groups."""
    footer = read_footer(*open_input(str(path)))
    starts = [0]
    for group in range(footer.metadata.num_row_groups):
        starts.append(starts[-1] + footer.metadata.row_group(group).num_rows)
    total = footer.metadata.num_rows
    shards = []
    for first in range(0, total, rows or total) if total else [0]:
        last = min(first + (rows or total), total)
        groups = tuple(
            group
            for group in range(len(starts) - 1)
            if starts[group] < last and starts[group + 1] > first
        )
        skip = first - starts[groups[0]] if groups else 0
        key = f"{path.stem}-{first:04d}".ljust(64, "0")
        shards.append(
            Shard(
                path=str(path),
                source_file=path.name,
                partition="",
                identity=footer.identity,
                first_row=first,
                rows=last - first,
                row_groups=groups,
                skip=skip,
                base_key=key,
                key=key,
            )
        )
    return shards


def annotate(shards: Sequence[Shard], options: JobOptions) -> list[ShardOutcome]:
    handler = DRFModelHandler.from_options(options)
    return list(annotate_unit(WorkUnit(tuple(shards)), options, handler))


def staged_rows(shard: Shard, options: JobOptions, tree: str) -> list[dict[str, Any]]:
    store = open_store(options.output)
    record = find_commit(store, shard.key)
    assert record is not None
    return pq.read_table(store.full(record.staged(tree))).to_pylist()


def annotations(shard: Shard, options: JobOptions) -> list[dict[str, Any]]:
    return staged_rows(shard, options, layout.ANNOTATIONS)


def dead_letters(shard: Shard, options: JobOptions) -> list[dict[str, Any]]:
    return staged_rows(shard, options, layout.DEAD_LETTERS)


def staging_files(options: JobOptions, folder: str) -> list[str]:
    return list(open_store(options.output).sizes(folder))


def test_each_row_becomes_one_annotation_in_source_order(
    tmp_path: Path, options: JobOptions
) -> None:
    path = write_posts(tmp_path / "posts.parquet", make_posts(50), row_group_rows=7)
    [shard] = shards_of(path)

    [outcome] = annotate([shard], options)

    assert (outcome.annotations, outcome.dead_letters, outcome.computed) == (50, 0, True)
    rows = annotations(shard, options)
    assert [row["source_row"] for row in rows] == list(range(50))
    assert [row["post_id"] for row in rows] == [f"p{n}" for n in range(50)]
    for row in rows:
        assert row["label"] in options.labels
        assert set(row["probabilities"]) == set(options.labels)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert row["text_weight"] + row["image_weight"] == pytest.approx(1, abs=1e-3)
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


def test_a_content_that_comes_again_much_later_is_computed_again(
    tmp_path: Path, options: JobOptions, inferred: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_stream, "_MOST_ANSWERS", 4)
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
        "gone": "fetch_failed",
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

    assert [outcome.computed for outcome in outcomes] == [False, True]
    assert outcomes[0].annotations == 10
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
        assert [outcome.annotations for outcome in outcomes] == [20, 20, 20]
    assert committed_keys(open_store(options.output)) == {shard.key for shard in shards}
    # The loser of each shard removed its own parts: two per shard are left.
    assert len(staging_files(options, layout.STAGED_PARTS)) == 6
    assert list_attempts(open_store(options.output)) == []
    again = annotate(shards, options)
    assert not any(outcome.computed for outcome in again)


def test_a_post_the_model_fails_on_costs_only_itself(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_on(monkeypatch, lambda post: post.token_ids is not None and len(post.token_ids) > 90)
    posts = make_posts(30)
    posts[13]["text"] = "sunny " * 200
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", posts))

    annotate([shard], options)

    [letter] = dead_letters(shard, options)
    assert (letter["source_row"], letter["stage"], letter["reason"]) == (
        13,
        "model",
        "model_failed",
    )
    assert "sunny" not in letter["message"]
    assert len(annotations(shard, options)) == 29


def test_a_model_that_fails_on_everything_is_no_dead_letter(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_on(monkeypatch, lambda post: True)
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(30)))

    with pytest.raises(Exception, match="the model fails on every post of a batch"):
        annotate([shard], options)

    assert committed_keys(open_store(options.output)) == set()


def test_an_error_ends_the_attempt_and_leaves_no_part(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_on(monkeypatch, lambda post: True)
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(30)))

    with pytest.raises(Exception, match="the model fails"):
        annotate([shard], options)

    assert list_attempts(open_store(options.output)) == []
    assert staging_files(options, layout.STAGED_PARTS) == []


def test_a_corrupt_page_fails_its_shards_and_no_others(tmp_path: Path, options: JobOptions) -> None:
    damaged = write_posts(tmp_path / "damaged.parquet", make_posts(30), row_group_rows=10)
    damage_page(damaged, row_group=1)
    sound = write_posts(tmp_path / "sound.parquet", make_posts(10))
    shards = [*shards_of(damaged, rows=10), *shards_of(sound)]

    outcomes = annotate(shards, options)

    assert [outcome.failure is None for outcome in outcomes] == [True, False, False, True]
    assert "damaged.parquet" in str(outcomes[1].failure)
    assert committed_keys(open_store(options.output)) == {shards[0].key, shards[3].key}
    assert list_attempts(open_store(options.output)) == []


@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_an_input_that_changed_since_planning_is_a_failure(
    tmp_path: Path, options: JobOptions, change: str
) -> None:
    path = write_posts(tmp_path / "posts.parquet", make_posts(10))
    [shard] = shards_of(path)
    if change == "removed":
        path.unlink()
    else:
        write_posts(path, make_posts(10, first=100))

    [outcome] = annotate([shard], options)

    assert "since the run began" in str(outcome.failure)
    assert committed_keys(open_store(options.output)) == set()


def test_a_shard_that_kills_its_worker_fails_alone_after_three_attempts(
    tmp_path: Path, options: JobOptions
) -> None:
    posts = make_posts(40)
    posts[25]["text"] = "deadly"
    shards = shards_of(write_posts(tmp_path / "posts.parquet", posts), rows=10)
    deaths = 0
    while _annotate_or_die(shards, options) == -signal.SIGKILL:
        deaths += 1
        assert deaths <= 4

    outcomes = annotate(shards, options)

    # The first death takes all shards that were in flight, after that each is alone.
    assert deaths == 3
    assert [outcome.failure is None for outcome in outcomes] == [True, True, False, True]
    assert "killed their worker 3 times" in str(outcomes[2].failure)

    # Recorded once, it is tried anew: the runs may have been stopped from outside.
    task = PartitionTask("", failed=(FailedFile("p", shards[0].source_file, "", "killed"),))
    close_partition(options, task, outcomes, [])
    assert _annotate_or_die(shards, options) == -signal.SIGKILL


def test_a_worker_with_another_checkpoint_or_version_refuses(
    tmp_path: Path, options: JobOptions, make_tiny_checkpoint: Callable[..., Path]
) -> None:
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(3)))
    other_model = dataclasses.replace(options, model=str(make_tiny_checkpoint(seed=7)))
    other_version = dataclasses.replace(options, package_version="0.0.0-other")

    with pytest.raises(Exception, match="revision"):
        annotate([shard], other_model)
    with pytest.raises(Exception, match=r"0\.0\.0-other"):
        annotate([shard], other_version)


def test_an_attempt_that_still_runs_elsewhere_does_not_count_as_dead(
    tmp_path: Path, options: JobOptions
) -> None:
    [shard] = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(3)))
    for _ in range(5):
        start_attempt(open_store(options.output), shard.key, "another run")

    [outcome] = annotate([shard], options)

    assert outcome.failure is None


def _fail_on(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Any], bool]) -> None:
    predict = Annotator.predict

    def failing(self: Annotator, posts: Sequence[Any]) -> list[Any]:
        if any(broken(post) for post in posts):
            raise RuntimeError("sunny secrets of the post")
        return predict(self, posts)

    monkeypatch.setattr(Annotator, "predict", failing)


def _annotate_or_die(shards: Sequence[Shard], options: JobOptions) -> int | None:
    """Annotate in a process that the text "deadly" kills; return its exit code."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_annotate_deadly, args=(shards, options))
    process.start()
    process.join()
    return process.exitcode


def _annotate_deadly(shards: Sequence[Shard], options: JobOptions) -> None:
    prepare = Annotator.prepare

    def deadly(self: Annotator, text: str | None, *args: Any, **kwargs: Any) -> Any:
        if text == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(self, text, *args, **kwargs)

    Annotator.prepare = deadly  # type: ignore[method-assign]
    annotate(shards, options)
