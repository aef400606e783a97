"""What goes wrong within a work unit: it costs as little as it can, and is told."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from drf_core.annotator import Annotator
from drf_core.decoding.children import ChildrenStoppedError
from drf_core.decoding.decoders import Decoded, Decoders, Item
from pipelines.annotate.job import JobOptions, Shard
from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import Attempt, AttemptState, list_attempts
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.annotate.publish.partition_tasks import PartitionTask
from pipelines.annotate.run_steps import close_partition
from pipelines.annotate.work import stream
from pipelines.posts.input_files import FailedFile
from pipelines.posts.inputs import Footer, read_footer
from pipelines.posts.reading import read_unit_rows
from pipelines.storage.backends import open_url
from pipelines.storage.files import open_store
from tests.data.corpora import damage_page, make_posts, write_posts
from tests.support.nights.work_units import (
    annotate,
    annotations,
    dead_letters,
    shards_of,
    staging_files,
)


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


@pytest.mark.parametrize("taken", ["in another's place", "written over"])
def test_an_input_swapped_and_put_back_while_it_was_read_is_a_failure(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    path = write_posts(tmp_path / "posts.parquet", make_posts(10))
    other = write_posts(tmp_path / "other.parquet", make_posts(10, first=100))
    [shard] = shards_of(path)
    checked = stream.read_footer

    def swapped(*arguments: Any, **more: Any) -> Footer:
        footer = checked(*arguments, **more)
        content, status = path.read_bytes(), path.stat()
        if taken == "written over":
            path.write_bytes(other.read_bytes())
        else:
            other.replace(path)
        monkeypatch.setattr(stream, "read_unit_rows", put_back(content, status))
        return footer

    def put_back(content: bytes, status: os.stat_result) -> Callable[..., Any]:
        def read(*arguments: Any, **more: Any) -> Iterator[Any]:
            try:
                yield from read_unit_rows(*arguments, **more)
            finally:
                path.write_bytes(content)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

        return read

    monkeypatch.setattr(stream, "read_footer", swapped)
    [outcome] = annotate([shard], options)

    assert read_footer(*open_url(str(path))).identity == shard.identity
    assert "changed while they were read" in str(outcome.failure)
    assert committed_keys(open_store(options.output)) == set()


def test_of_two_threads_one_at_a_time_tries_a_shard_that_died_before(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the process down is then not held against the other's shard."""
    units = [
        shards_of(write_posts(tmp_path / f"{name}.parquet", make_posts(12, first)), rows=6)
        for first, name in ((0, "one"), (20, "two"))
    ]
    store = open_store(options.output)
    for shard in (shard for unit in units for shard in unit):
        Attempt(store, shard.key, "killed")
    monkeypatch.setattr(AttemptState, "alive", lambda state: state.run_id != "killed")
    at_work: list[int] = []
    predict = Annotator.predict

    def counted(self: Annotator, posts: Any) -> Any:
        at_work.append(sum(state.alive() for state in list_attempts(store)))
        time.sleep(0.05)
        return predict(self, posts)

    monkeypatch.setattr(Annotator, "predict", counted)
    with ThreadPoolExecutor(2) as pool:
        outcomes = [*itertools.chain(*pool.map(lambda unit: annotate(unit, options), units))]

    assert at_work == [1] * 4
    assert [(outcome.failure, outcome.killed) for outcome in outcomes] == [(None, 1)] * 4


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
    assert [outcome.killed for outcome in outcomes] == [0, 0, 3, 0]

    # Recorded once, it is tried anew: the runs may have been stopped from outside.
    task = PartitionTask("", failed=(FailedFile("p", shards[0].source_file, "", "killed"),))
    close_partition(options, task, outcomes, [])
    assert _annotate_or_die(shards, options) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["image", "text"])
def test_what_three_interrupts_met_in_work_is_put_aside_alone(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    shards = shards_of(write_posts(tmp_path / "posts.parquet", make_posts(30)), rows=10)
    poison = make_posts(30)[12][kind]
    decode = Decoders.decode
    calls = 0

    def interrupted(self: Decoders, items: Sequence[Item], *rest: Any) -> list[Decoded]:
        nonlocal calls
        wanted = poison.encode() if kind == "text" else poison
        if any(bytes(item.data) == wanted for item in items):
            calls += 1
            raise ChildrenStoppedError(kind, seconds=3.0)
        return decode(self, items, *rest)

    monkeypatch.setattr(Decoders, "decode", interrupted)
    for attempt in range(3):
        with pytest.raises(ChildrenStoppedError):
            annotate(shards, options)
        assert len(list_attempts(open_store(options.output))) == attempt + 1
        assert shards[1].key not in committed_keys(open_store(options.output))

    outcomes = annotate(shards, options)

    assert calls == 3
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    rows = [row for shard in shards for row in annotations(shard, options)]
    assert {row["source_row"]: row[f"{kind}_reason"] for row in rows} == {
        row: "timed_out" if row == 12 else None for row in range(30)
    }


def test_an_interrupt_is_held_against_no_post_that_was_just_begun(
    tmp_path: Path, options: JobOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Decoders, *rest: Any) -> list[Decoded]:
        raise ChildrenStoppedError("image", seconds=0.1)

    monkeypatch.setattr(Decoders, "decode", interrupted)
    with pytest.raises(ChildrenStoppedError):
        annotate(shards_of(write_posts(tmp_path / "posts.parquet", make_posts(3))), options)
    assert list_attempts(open_store(options.output)) == []


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
        Attempt(open_store(options.output), shard.key, "another run")

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
