"""Publishing that is proven, killed anywhere, hindered, or done by two runs at once."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import signal
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import Attempt
from pipelines.annotate.output.partition_state import read_ledger
from pipelines.annotate.output.snapshot import read_annotations
from pipelines.annotate.output.staged_shard import StagedShard
from pipelines.annotate.publish.publish_partition import PublishError
from pipelines.annotate.run_steps import RunStart, close_here
from pipelines.storage.files import open_store
from schemas.dead_letters import dead_letters_schema
from schemas.manifest import Manifest
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.support.killing import run_and_kill, start
from tests.support.nights.published_night import (
    COMPLETE,
    FIRST,
    NIGHT,
    SECOND,
    corpus,
    output,
    replace_with,
    rows_of,
)
from tests.support.nights.stand_in import (
    annotate,
    annotate_shard,
    annotation,
    dead_letter,
    memory_store,
    plan_run,
    publish,
    published_bytes,
    published_content,
    published_rows,
    run_job,
    staged_files,
    success_files,
)

__all__ = ["corpus", "output"]


class TestProof:
    def commit_wrong_rows(self, plan: Plan) -> None:
        """Commit the first shard with row 1 twice, in both trees, and row 3 nowhere."""
        shard = plan.shards[FIRST][0]
        store = open_store(plan.options.output)
        posts = make_posts(4)
        rows = [annotation(plan.options, shard, row, posts[row]) for row in (0, 1, 2)]
        attempt = Attempt(store, shard.key, "run")
        with StagedShard(store, plan.options, shard, attempt) as staged:
            staged.add_annotations(pa.Table.from_pylist(rows, staged.annotations_schema))
            letters = pa.Table.from_pylist([dead_letter(shard, 1)], dead_letters_schema())
            staged.add_dead_letters(letters)
            staged.commit()
        attempt.end()

    def test_a_row_that_is_there_twice_stops_publishing(self, corpus: Path, output: Path) -> None:
        plan = plan_run(output, corpus)
        self.commit_wrong_rows(plan)
        for shard in (*plan.shards[FIRST][1:], *plan.shards[SECOND]):
            annotate_shard(plan.options, shard)
        with pytest.raises(PublishError, match="each of its rows once"):
            publish(plan)
        assert success_files(output) == set()
        assert published_rows(output) == []

    def test_the_partition_stays_as_it_was_and_the_next_run_repairs(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        before = published_bytes(output)
        plan = plan_run(output, corpus, model_revision="revision-2")
        self.commit_wrong_rows(plan)
        for shard in (*plan.shards[FIRST][1:], *plan.shards[SECOND]):
            annotate_shard(plan.options, shard)
        with pytest.raises(PublishError):
            publish(plan)
        assert published_bytes(output) == before
        _, computed = run_job(output, corpus, model_revision="revision-2")
        assert computed == {FIRST: 1}
        assert published_rows(output) == rows_of(first=10, second=10)
        assert success_files(output) == COMPLETE

    @pytest.mark.parametrize("tree", ["annotations", "dead_letters"])
    def test_one_flipped_bit_of_a_staged_part_stops_publishing(
        self, corpus: Path, output: Path, tree: str
    ) -> None:
        posts = make_posts(10)
        posts[5]["post_id"] = None
        write_posts(corpus / FIRST, posts)
        plan = plan_run(output, corpus)
        annotate(plan)
        for where in (0, 4, -20):
            part = next((output / "_staging" / "parts").rglob(f"*.{tree}.parquet"))
            content = bytearray(part.read_bytes())
            content[where] ^= 1
            part.write_bytes(bytes(content))
            with pytest.raises(PublishError, match="does not have the bytes that were committed"):
                publish(plan)
            assert published_rows(output) == []
            annotate(plan_run(output, corpus))
        run_job(output, corpus)
        assert published_rows(output) == rows_of(first=10, second=10)


def publish_plan(plan: Plan) -> None:
    publish(plan)


Content = list[tuple[str, str]]


def of_tree(content: Content, tree: str) -> Content:
    return [(name, data) for name, data in content if name.startswith(tree)]


def rows_by_ledger(output: Path) -> list[tuple[str, int]]:
    """(source_file, source_row) of both trees, as who reads by the ledger finds them."""
    rows = []
    for tree in layout.TREES:
        table = read_annotations(str(output), tree).to_table(["source_file", "source_row"])
        rows += zip(*(column.to_pylist() for column in table.columns), strict=True)
    return sorted(rows)


class TestKilledAnywhere:
    """A night in which everything changes at once, killed before every change of a file."""

    @pytest.fixture
    def prepared(self, tmp_path: Path) -> tuple[Path, Plan, Content]:
        """The output before publishing, the plan, and the rows that publishing leads to."""
        corpus, output = tmp_path / "in", tmp_path / "before"
        write_nights(corpus, ["2026-11-17"], files_per_night=3, posts_per_file=6)
        write_posts(corpus / NIGHT / "part-00003.parquet", [*make_posts(2, 700), {"post_id": None}])
        run_job(output, corpus)
        replace_with(corpus / FIRST, 3)
        (corpus / SECOND).unlink()
        write_posts(corpus / NIGHT / "part-00009.parquet", make_posts(5, 900))
        plan = plan_run(output, corpus, prune=True)
        annotate(plan)
        shutil.copytree(output, tmp_path / "done")
        publish(self.moved(plan, tmp_path / "done"))
        return output, plan, published_content(tmp_path / "done")

    def moved(self, plan: Plan, output: Path) -> Plan:
        options = dataclasses.replace(plan.options, output=str(output))
        return dataclasses.replace(plan, options=options)

    def test_readers_see_the_old_folder_or_the_new_and_the_next_run_ends_it(
        self, prepared: tuple[Path, Plan, Content], tmp_path: Path
    ) -> None:
        before, plan, expected = prepared
        of_ledger = [rows_by_ledger(path) for path in (before, tmp_path / "done")]
        step = 1
        while True:
            output = tmp_path / f"killed-{step}"
            shutil.copytree(before, output)
            killed = run_and_kill(step, publish_plan, self.moved(plan, output))
            for tree in layout.TREES:
                seen = of_tree(published_content(output), tree)
                assert seen in (
                    of_tree(published_content(before), tree),
                    of_tree(expected, tree),
                ), f"step {step}: {tree} is neither the old folder nor the new one"
            assert rows_by_ledger(output) in of_ledger, f"step {step}"
            if not killed:
                break
            _, computed = run_job(output, tmp_path / "in", prune=True)
            assert not computed, f"step {step}"
            assert published_content(output) == expected, f"step {step}"
            assert staged_files(output) == set(), f"step {step}"
            shutil.rmtree(output)
            step += 1
        assert step > 20

    def test_asked_to_stop_it_ends_its_step_and_both_trees_are_of_one_night(
        self, prepared: tuple[Path, Plan, Content], tmp_path: Path
    ) -> None:
        before, plan, expected = prepared
        old = published_content(before)
        for step in itertools.count(1):
            output = tmp_path / f"asked-{step}"
            shutil.copytree(before, output)
            stopped = run_and_kill(step, publish_plan, self.moved(plan, output), by=signal.SIGTERM)
            assert published_content(output) in (old, expected), f"step {step}"
            if not stopped:
                break
        assert step > 10

    def test_a_first_night_becomes_visible_whole(self, corpus: Path, tmp_path: Path) -> None:
        plan = plan_run(tmp_path / "before", corpus)
        annotate(plan)
        for step in itertools.count(1):
            output = tmp_path / f"killed-{step}"
            shutil.copytree(tmp_path / "before", output)
            killed = run_and_kill(step, publish_plan, self.moved(plan, output))
            seen = published_rows(output)
            assert seen in ([], rows_of(first=10, second=10)), f"step {step}"
            if not killed:
                break
        assert step > 10

    def test_staged_parts_lost_before_they_are_brought_are_computed_again(
        self, prepared: tuple[Path, Plan, Content], tmp_path: Path
    ) -> None:
        before, plan, _ = prepared
        output = tmp_path / "killed"
        shutil.copytree(before, output)
        # The first changes are the ledger's; from then on it is committed.
        assert run_and_kill(5, publish_plan, self.moved(plan, output))
        assert read_ledger(open_store(str(output)), NIGHT) != read_ledger(
            open_store(str(before)), NIGHT
        )
        shutil.rmtree(output / "_staging")
        _, computed = run_job(output, tmp_path / "in", prune=True)
        third, fourth = (f"{NIGHT}/part-{number:05d}.parquet" for number in (2, 9))
        dead = f"{NIGHT}/part-00003.parquet"
        assert computed == {FIRST: 1, third: 2, dead: 1, fourth: 2}
        assert success_files(output) == COMPLETE

    def test_a_dry_run_sees_a_killed_publishing_and_changes_nothing(
        self, prepared: tuple[Path, Plan, Content], tmp_path: Path
    ) -> None:
        before, plan, _ = prepared
        output = tmp_path / "killed"
        shutil.copytree(before, output)
        assert run_and_kill(9, publish_plan, self.moved(plan, output))
        seen = published_bytes(output)
        again = plan_run(output, tmp_path / "in", prune=True)
        assert again.publish == (NIGHT,)
        assert again.units == ()
        assert published_bytes(output) == seen


def run_whole(output: Path, corpus: Path) -> None:
    run_job(output, corpus)


class TestAPartitionThatCannotBeWritten:
    def test_does_not_stop_the_others_now_or_later(self, tmp_path: Path, output: Path) -> None:
        write_nights(tmp_path / "in", files_per_night=1)
        (output / "annotations").mkdir(parents=True)
        (output / "annotations" / NIGHT).write_text("in the way")
        other = "dt=2026-11-18"
        manifest = close(plan_run(output, tmp_path / "in"))
        assert manifest.partitions == {NIGHT: "incomplete", other: "published"}
        assert manifest.exit_code == 1
        assert any(f"annotations/{NIGHT}" in warning for warning in manifest.warnings)

        write_posts(tmp_path / "in" / other / "b.parquet", make_posts(3))
        assert close(plan_run(output, tmp_path / "in", run_id="2")).partitions[other] == "published"

        (output / "annotations" / NIGHT).unlink()
        assert close(plan_run(output, tmp_path / "in", run_id="3")).exit_code == 0


def close(plan: Plan) -> Manifest:
    """Commit all of the plan's shards, and end the run as the client does."""
    annotate(plan)
    return close_here(plan, (), RunStart(datetime.now(timezone.utc)))


def test_the_name_of_a_partition_may_be_long_in_any_script(tmp_path: Path, output: Path) -> None:
    night = f"topic={'ü' * 100}"
    write_posts(tmp_path / "in" / night / "a.parquet", make_posts(3))
    plan = plan_run(output, tmp_path / "in")
    annotate(plan)
    assert run_and_kill(8, publish, plan)
    run_job(output, tmp_path / "in")
    assert len(published_rows(output)) == 3
    assert layout.lock(night) != layout.lock(f"{night}ü")


class TestTwoRunsAtOnce:
    def test_a_shard_committed_after_it_was_published_counts_once(
        self, corpus: Path, output: Path
    ) -> None:
        slow = plan_run(output, corpus)
        run_job(output, corpus)
        before = published_bytes(output)
        annotate(slow)
        assert publish(slow)[NIGHT].status == "up_to_date"
        assert published_bytes(output) == before

    def test_two_processes_lose_and_double_nothing(self, corpus: Path, output: Path) -> None:
        processes = [start(run_whole, output, corpus) for _ in range(3)]
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert published_rows(output) == rows_of(first=10, second=10)
        assert success_files(output) == COMPLETE
        _, computed = run_job(output, corpus)
        assert not computed


class Crash(BaseException):
    """Stands for a kill where there is no process to kill: nothing handles it."""


class TestObjectStores:
    """A store without renames, exclusive links and kernel locks; memory:// is one."""

    def test_publishes_like_on_a_disk(self, corpus: Path) -> None:
        store = memory_store("publishing")
        manifest, _ = run_job(store.url, corpus)
        assert manifest.exit_code == 0
        ledger = read_ledger(store, NIGHT)
        assert ledger is not None
        assert store.sizes(f"annotations/{NIGHT}").keys() == {
            *ledger.parts[layout.ANNOTATIONS],
            "_SUCCESS",
        }
        manifest, computed = run_job(store.url, corpus)
        assert not computed
        assert manifest.partitions == {NIGHT: "up_to_date"}

    def test_stopped_before_any_change_the_next_run_completes(
        self, corpus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step, stopped = 1, True
        while stopped:
            store = memory_store("stopped")
            run_job(store.url, corpus)
            plan = plan_run(store.url, corpus, model_revision="revision-2")
            annotate(plan)
            stopped = self.publish_until(step, plan)
            _, computed = run_job(store.url, corpus, model_revision="revision-2")
            assert not computed, f"step {step}"
            assert self.rows(store.url) == rows_of(first=10, second=10), f"step {step}"
            assert store.size(f"annotations/{NIGHT}/_SUCCESS") is not None, f"step {step}"
            step += 2
        assert step > 20

    def publish_until(self, step: int, plan: Plan) -> bool:
        fs = type(open_store(plan.options.output).fs)
        changes = 0

        def counted(change):  # type: ignore[no-untyped-def]
            def call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
                nonlocal changes
                changes += 1
                if changes >= step:
                    raise Crash
                return change(self, *args, **kwargs)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("pipe_file", "cp_file", "rm_file"):
                patch.setattr(fs, name, counted(getattr(fs, name)))
            try:
                publish(plan)
            except Crash:
                return True
        return False

    def rows(self, url: str) -> list[tuple[str, int]]:
        store = open_store(url)
        rows: list[tuple[str, int]] = []
        for tree in layout.TREES:
            for name in store.sizes(f"{tree}/{NIGHT}"):
                if name.endswith(".parquet"):
                    with store.fs.open(store.full(f"{tree}/{NIGHT}/{name}")) as file:
                        table = pq.read_table(file, columns=["source_file", "source_row"])
                    rows += zip(*(c.to_pylist() for c in table.columns), strict=True)
        return sorted(rows)
