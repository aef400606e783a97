from __future__ import annotations

import dataclasses
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.job import Plan, Shard
from pipelines.annotate.output import attempts, layout
from pipelines.annotate.output.attempts import Attempt, list_attempts, past_attempts
from pipelines.annotate.output.clear_staging import sweep_staging
from pipelines.annotate.output.commit_records import committed_keys, find_commit
from pipelines.annotate.output.staged_shard import StagedShard
from pipelines.storage.files import OutputError, Store, open_store
from tests.data.corpora import make_posts, write_posts
from tests.support.killing import run_and_kill, start
from tests.support.nights.stand_in import (
    annotate_shard,
    annotation,
    memory_store,
    plan_run,
    publish,
    staged_files,
    write_rows,
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """One file of eight posts in two shards: one without text, one without id."""
    posts = make_posts(8)
    posts[1]["text"] = None
    posts[2]["post_id"] = None
    write_posts(tmp_path / "in" / "a.parquet", posts)
    return plan_run(tmp_path / "out", tmp_path / "in")


@pytest.fixture
def shard(plan: Plan) -> Shard:
    return plan.shards["a.parquet"][0]


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, plan: Plan) -> Iterator[Store]:
    yield open_store(plan.options.output) if request.param == "disk" else memory_store("staging")


def staged(store: Store, plan: Plan, shard: Shard, **options: object) -> StagedShard:
    attempt = Attempt(store, shard.key, "run")
    return StagedShard(store, plan.options, shard, attempt, **options)  # type: ignore[arg-type]


class TestCommits:
    def test_a_record_names_both_parts_with_counts_and_checksums(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        with staged(store, plan, shard) as parts:
            write_rows(parts, plan.options, shard)
            record = parts.commit()
        assert find_commit(store, shard.key) == record
        assert committed_keys(store) == {shard.key}
        assert record.entry.rows == 4
        assert record.entry.annotations == 3
        assert record.entry.dead_letters == 1
        assert record.entry.counts.labels == {"negative": 2, "neutral": 1}
        assert record.entry.counts.states["text"] == {"present": 2, "recovered": 1}
        assert record.entry.counts.reasons == {"text": {"missing": 1}, "image": {}}
        assert record.entry.counts.dead_letter_reasons == {"no_post_id": 1}
        for tree in layout.TREES:
            assert store.size(record.staged(tree)) == record.parts[tree].bytes

    def test_the_reasons_behind_a_dead_letter_are_counted_for_retry(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        with staged(store, plan, shard) as parts:
            write_rows(parts, plan.options, shard)
            nothing = parts._parts[layout.DEAD_LETTERS].schema.empty_table()
            parts.add_dead_letters(nothing, ["fetch_failed", "blank", "fetch_failed"])
            counts = parts.commit().entry.counts
        assert counts.lost_reasons == {"fetch_failed": 2, "blank": 1}
        assert counts.all_reasons() >= {"fetch_failed", "blank", "missing", "no_post_id"}

    def test_parts_say_which_schema_they_have(self, plan: Plan, shard: Shard) -> None:
        store = open_store(plan.options.output)
        with staged(store, plan, shard) as parts:
            write_rows(parts, plan.options, shard)
            record = parts.commit()
        for tree in layout.TREES:
            footer = pq.read_metadata(store.full(record.staged(tree)))
            version = {"annotations": b"2", "dead_letters": b"1"}[tree]
            assert footer.metadata[b"drf.schema_version"] == version
            assert footer.row_group(0).column(0).compression == "ZSTD"

    def test_small_batches_end_in_one_row_group(self, plan: Plan, shard: Shard) -> None:
        store = open_store(plan.options.output)
        posts = make_posts(4)
        with staged(store, plan, shard) as parts:
            for row, post in enumerate(posts):
                rows = [annotation(plan.options, shard, row, post)]
                table = pa.Table.from_pylist(rows, parts.annotations_schema)
                parts.add_annotations(table)
            record = parts.commit()
        part = pq.ParquetFile(store.full(record.staged(layout.ANNOTATIONS)))
        assert part.num_row_groups == 1
        assert part.read(["source_row"])["source_row"].to_pylist() == [0, 1, 2, 3]

    def test_kept_columns_travel_through(self, plan: Plan, shard: Shard) -> None:
        store = open_store(plan.options.output)
        with staged(store, plan, shard, keep=[pa.field("lang", pa.string())]) as parts:
            rows = [
                {**annotation(plan.options, shard, row, post), "lang": "de"}
                for row, post in enumerate(make_posts(4))
            ]
            parts.add_annotations(pa.Table.from_pylist(rows, parts.annotations_schema))
            record = parts.commit()
        table = pq.read_table(store.full(record.staged(layout.ANNOTATIONS)))
        assert table["lang"].to_pylist() == ["de"] * 4

    def test_a_shard_that_lacks_rows_is_not_committed(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        with staged(store, plan, shard) as parts, pytest.raises(ValueError, match="4 rows in"):
            parts.commit()
        assert find_commit(store, shard.key) is None
        assert store.sizes(layout.STAGED_PARTS) == {}

    def test_rows_out_of_order_are_refused(self, plan: Plan, shard: Shard) -> None:
        store = open_store(plan.options.output)
        rows = [annotation(plan.options, shard, row, make_posts(1)[0]) for row in (1, 0)]
        with staged(store, plan, shard) as parts, pytest.raises(ValueError, match="out of order"):
            parts.add_annotations(pa.Table.from_pylist(rows, parts.annotations_schema))

    def test_left_without_commit_nothing_stays(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        with pytest.raises(RuntimeError), staged(store, plan, shard) as parts:
            write_rows(parts, plan.options, shard)
            raise RuntimeError
        assert store.sizes(layout.STAGED_PARTS) == {}
        assert committed_keys(store) == set()

    def test_a_record_whose_parts_are_gone_commits_nothing_and_is_replaced(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        for _ in range(2):
            with staged(store, plan, shard) as parts:
                write_rows(parts, plan.options, shard)
                record = parts.commit()
            assert find_commit(store, shard.key) == record
            store.remove(record.staged(layout.DEAD_LETTERS))
            assert find_commit(store, shard.key) is None


class TestSeveralAttempts:
    def test_a_record_that_a_repeated_request_finds_may_be_its_own(
        self, plan: Plan, shard: Shard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store answers the first request too late, and the second: it is there already."""
        store = memory_store("repeated")
        create = Store.create
        monkeypatch.setattr(
            Store,
            "create",
            lambda *args: create(*args) and create(*args),  # both arrive
        )
        with staged(store, plan, shard) as parts:
            write_rows(parts, plan.options, shard)
            record = parts.commit()
        assert find_commit(store, shard.key) == record

    def test_the_first_commit_wins_and_the_other_leaves_nothing(
        self, store: Store, plan: Plan, shard: Shard
    ) -> None:
        with staged(store, plan, shard) as first, staged(store, plan, shard) as second:
            for parts in (first, second):
                write_rows(parts, plan.options, shard)
            won = second.commit()
            assert first.commit() == won
        names = {won.staged(tree).rpartition("/")[2] for tree in layout.TREES}
        assert store.sizes(layout.STAGED_PARTS).keys() == names

    def test_at_once_in_many_threads_one_wins(self, plan: Plan, shard: Shard) -> None:
        store = open_store(plan.options.output)
        barrier = threading.Barrier(4)
        records = []

        def work() -> None:
            with staged(store, plan, shard) as parts:
                write_rows(parts, plan.options, shard)
                barrier.wait()
                records.append(parts.commit())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(records) == 4
        assert all(record == records[0] for record in records)
        assert len(store.sizes(layout.STAGED_PARTS)) == 2


class TestKilled:
    def test_before_any_change_of_a_file_the_shard_is_committed_whole_or_not_at_all(
        self, plan: Plan, shard: Shard, tmp_path: Path
    ) -> None:
        step = 1
        while True:
            options = dataclasses.replace(plan.options, output=str(tmp_path / f"out-{step}"))
            store = open_store(options.output)
            killed = run_and_kill(step, annotate_shard, options, shard)
            record = find_commit(store, shard.key)
            if record is None:
                assert killed
                record = annotate_shard(options, shard)
            assert find_commit(store, shard.key) == record
            for tree in layout.TREES:
                rows = pq.read_metadata(store.full(record.staged(tree))).num_rows
                assert rows == record.parts[tree].rows
            if not killed:
                break
            step += 1
        assert step > 4

    def test_its_leftovers_go_when_the_shard_is_published(
        self, plan: Plan, shard: Shard, tmp_path: Path
    ) -> None:
        # The third change is the commit record's: both parts are written.
        assert run_and_kill(3, annotate_shard, plan.options, shard)
        assert len(list((tmp_path / "out" / layout.STAGED_PARTS).iterdir())) == 2
        for each in plan.shards["a.parquet"]:
            annotate_shard(plan.options, each)
        publish(plan)
        assert staged_files(tmp_path / "out") == set()


def work_for_ever(root: str, key: str) -> None:
    attempt = Attempt(open_store(root), key, "run")
    while True:
        attempt.touch(1)
        time.sleep(0.05)


class TestAttempts:
    def test_are_on_record_while_they_run(self, store: Store) -> None:
        attempt = Attempt(store, "key", "run")
        (state,) = list_attempts(store)
        assert (state.key, state.attempt, state.run_id, state.rows) == ("key", attempt.id, "run", 0)
        attempt.end()
        assert list_attempts(store) == []

    def test_say_now_and_then_how_far_they_are(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempt = Attempt(store, "key", "run")
        attempt.touch(5, 1)
        assert list_attempts(store)[0].rows == 0
        monkeypatch.setattr(attempts, "_TOUCH_SECONDS", 0)
        attempt.touch(6, 2)
        (state,) = list_attempts(store)
        assert (state.rows, state.dead_letters) == (6, 2)

    def test_of_other_shards_do_not_count(self, store: Store) -> None:
        Attempt(store, "key", "run")
        assert list_attempts(store, ["other"]) == []
        assert len(list_attempts(store, ["key"])) == 1

    def test_at_work_are_not_stale(self, store: Store) -> None:
        Attempt(store, "key", "run")
        assert past_attempts(store, ["key"])[0]["key"] == 0

    def test_of_a_killed_process_are_stale_at_once(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        process = start(work_for_ever, str(tmp_path), "key")
        while not list_attempts(store):
            time.sleep(0.02)
        assert past_attempts(store, ["key"])[0]["key"] == 0
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert past_attempts(store, ["key"])[0]["key"] == 1

    def test_of_an_earlier_process_of_the_same_number_are_stale(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container that was killed and started again: process 1 on the same host."""
        Attempt(store, "key", "run")
        monkeypatch.setattr(attempts, "_PROCESS_STARTED", time.time() + 1)
        assert past_attempts(store, ["key"])[0]["key"] == 1

    def test_on_another_machine_are_stale_once_they_fall_silent(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts.socket, "gethostname", lambda: "elsewhere")
        Attempt(store, "key", "run")
        monkeypatch.undo()
        assert past_attempts(store, ["key"])[0]["key"] == 0
        monkeypatch.setattr(attempts, "_SILENCE_SECONDS", -1)
        assert past_attempts(store, ["key"])[0]["key"] == 1

    def test_that_died_a_day_ago_do_not_count(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Attempt(store, "key", "run")
        monkeypatch.setattr(attempts, "_SILENCE_SECONDS", -1)
        assert past_attempts(store, ["key"])[0]["key"] == 1
        tomorrow = time.time() + 86_401
        monkeypatch.setattr(attempts.time, "time", lambda: tomorrow)
        assert past_attempts(store, ["key"])[0]["key"] == 0


class TestSweeping:
    def test_takes_only_what_is_old(self, plan: Plan, shard: Shard, tmp_path: Path) -> None:
        store = open_store(plan.options.output)
        run_and_kill(3, annotate_shard, plan.options, shard)
        assert sweep_staging(store) == 0
        eight_days_ago = time.time() - 8 * 86_400
        for path in (tmp_path / "out" / "_staging").rglob("*"):
            os.utime(path, (eight_days_ago, eight_days_ago))
        record = annotate_shard(plan.options, shard)
        assert sweep_staging(store) == 4
        assert find_commit(store, shard.key) == record
        assert len(staged_files(tmp_path / "out")) == 3


def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    plan: Plan, shard: Shard, tmp_path: Path
) -> None:
    store = open_store(plan.options.output)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    attempt = Attempt(store, shard.key, "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with (
            pytest.raises(OutputError, match=r"cannot write .*: File too large"),
            StagedShard(store, plan.options, shard, attempt) as parts,
        ):
            write_rows(parts, plan.options, shard)
            parts.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    attempt.end()
    assert staged_files(tmp_path / "out") == set()
