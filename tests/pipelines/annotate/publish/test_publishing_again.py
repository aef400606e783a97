"""Publishing again: pruned, retried, or repaired where somebody changed the output."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.annotate.output import layout
from pipelines.storage.files import OutputError
from tests.data.corpora import make_posts, write_nights, write_posts
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
    plan_run,
    publish,
    published_bytes,
    published_content,
    published_rows,
    remove_ledgers,
    run_job,
    success_files,
)

__all__ = ["corpus", "output"]


class TestPruning:
    def test_the_parts_of_a_file_whose_input_is_gone_are_removed_only_with_prune(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        (corpus / FIRST).unlink()
        manifest, _ = run_job(output, corpus)
        assert manifest.orphans == [FIRST]
        assert manifest.pruned == []
        assert published_rows(output) == rows_of(first=10, second=10)
        manifest, _ = run_job(output, corpus, prune=True)
        assert manifest.pruned == [FIRST]
        assert published_rows(output) == rows_of(second=10)
        assert success_files(output) == COMPLETE

    def test_a_partition_without_files_leaves_no_folder(self, tmp_path: Path, output: Path) -> None:
        write_nights(tmp_path / "in")
        run_job(output, tmp_path / "in")
        shutil.rmtree(tmp_path / "in" / NIGHT)
        manifest, _ = run_job(output, tmp_path / "in", prune=True)
        assert manifest.pruned == [FIRST, SECOND]
        assert [path.name for path in (output / "annotations").iterdir()] == ["dt=2026-11-18"]
        assert [path.name for path in (output / "dead_letters").iterdir()] == ["dt=2026-11-18"]

    def test_an_input_that_came_back_after_planning_is_not_pruned(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        content = (corpus / FIRST).read_bytes()
        (corpus / FIRST).unlink()
        plan = plan_run(output, corpus, prune=True)
        (corpus / FIRST).write_bytes(content)
        assert publish(plan)[NIGHT].pruned == ()
        assert published_rows(output) == rows_of(first=10, second=10)


class TestRetry:
    def corpus_with_missing_text(self, tmp_path: Path) -> Path:
        posts = make_posts(8)
        posts[5]["text"] = None
        write_posts(tmp_path / "in" / FIRST, posts)
        return tmp_path / "in"

    def test_shards_with_the_reason_are_computed_again_and_replaced(
        self, tmp_path: Path, output: Path
    ) -> None:
        corpus = self.corpus_with_missing_text(tmp_path)
        run_job(output, corpus)
        before = published_bytes(output)
        _, computed = run_job(output, corpus, retry=["missing"])
        assert computed == {FIRST: 1}
        assert published_rows(output) == rows_of(first=8)
        after = published_bytes(output)
        assert len(after.keys() - before.keys()) == 1
        assert len(before.keys() - after.keys()) == 1
        _, computed = run_job(output, corpus, retry=["missing"])
        assert computed == {FIRST: 1}

    def test_later_runs_keep_what_a_retry_brought(self, tmp_path: Path, output: Path) -> None:
        corpus = self.corpus_with_missing_text(tmp_path)
        run_job(output, corpus)
        run_job(output, corpus, retry=["missing"])
        before = published_bytes(output)
        _, computed = run_job(output, corpus)
        assert not computed
        assert published_bytes(output) == before

    def test_a_run_planned_before_the_retry_does_not_undo_it(
        self, tmp_path: Path, output: Path
    ) -> None:
        corpus = self.corpus_with_missing_text(tmp_path)
        plan = plan_run(output, corpus)
        annotate(plan)
        run_job(output, corpus)
        run_job(output, corpus, retry=["missing"])
        before = published_bytes(output)
        annotate_shard(plan.options, plan.shards[FIRST][1])
        assert publish(plan)[NIGHT].status == "up_to_date"
        assert published_bytes(output) == before


class TestHandsOnTheOutput:
    def test_a_deleted_part_is_computed_again_alone(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus, part_bytes=1)
        before = published_content(output)
        next((output / "annotations" / NIGHT).glob("*.parquet")).unlink()
        _, computed = run_job(output, corpus, part_bytes=1)
        assert sum(computed.values()) == 1
        assert published_content(output) == before

    @pytest.mark.parametrize("tree", ["annotations", "dead_letters"])
    def test_a_part_cut_short_is_computed_again(
        self, corpus: Path, output: Path, tree: str
    ) -> None:
        replace_with(corpus / FIRST, 2)
        write_posts(corpus / SECOND, [*make_posts(2), {"post_id": None}])
        run_job(output, corpus)
        before = published_content(output)
        part = next((output / tree / NIGHT).glob("*.parquet"))
        part.write_bytes(part.read_bytes()[:-1])
        _, computed = run_job(output, corpus)
        assert computed == {FIRST: 1, SECOND: 1}
        assert published_content(output) == before

    @pytest.mark.parametrize("tree", ["annotations", "dead_letters"])
    def test_a_deleted_partition_is_made_again(self, corpus: Path, output: Path, tree: str) -> None:
        run_job(output, corpus)
        before = published_content(output)
        shutil.rmtree(output / tree / NIGHT)
        run_job(output, corpus)
        assert published_content(output) == before

    def test_parts_whose_ledger_is_gone_are_left_alone(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus)
        before = published_bytes(output)
        remove_ledgers(output, NIGHT)
        with pytest.raises(OutputError, match=r"whose ledger is gone.*delete that partition"):
            run_job(output, corpus)
        assert published_bytes(output) == before
        for tree in layout.TREES:
            shutil.rmtree(output / tree / NIGHT)
        run_job(output, corpus)
        assert published_rows(output) == rows_of(first=10, second=10)

    def test_parts_of_an_earlier_version_are_neither_doubled_nor_removed(
        self, corpus: Path, output: Path
    ) -> None:
        folder = output / "annotations" / NIGHT
        folder.mkdir(parents=True)
        (folder / "part-0123456789ab-00000000-0123456789abcdef.parquet").write_bytes(b"old")
        with pytest.raises(OutputError, match="whose ledger is gone"):
            run_job(output, corpus)
        assert [path.read_bytes() for path in folder.iterdir()] == [b"old"]

    def test_a_part_lost_of_another_file_is_not_called_complete(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus, part_bytes=1)
        replace_with(corpus / FIRST, 3)
        part = next(
            path
            for path in (output / "annotations" / NIGHT).glob("*.parquet")
            if SECOND in pq.ParquetFile(path).read(["source_file"])["source_file"].to_pylist()
        )
        part.unlink()
        manifest, computed = run_job(output, corpus / FIRST)
        assert computed == {FIRST: 1}
        assert manifest.partitions == {NIGHT: "incomplete"}
        assert f"published parts of {SECOND} are gone" in manifest.warnings[0]
        assert success_files(output) == set()
        manifest, computed = run_job(output, corpus)
        assert computed == {SECOND: 1}
        assert success_files(output) == COMPLETE

    @pytest.mark.parametrize("tree", ["annotations", "dead_letters"])
    def test_of_a_lost_part_nothing_stays_that_another_part_has(
        self, corpus: Path, output: Path, tree: str
    ) -> None:
        write_posts(corpus / FIRST, [*make_posts(2), {"post_id": None}])
        run_job(output, corpus)
        next((output / tree / NIGHT).glob("*.parquet")).unlink()
        manifest, computed = run_job(output, corpus / FIRST)
        assert computed == {FIRST: 1}
        assert manifest.partitions == {NIGHT: "incomplete"}
        assert published_rows(output) == rows_of(first=3)
        manifest, computed = run_job(output, corpus)
        assert computed == {SECOND: 3}
        assert published_rows(output) == rows_of(first=3, second=10)
        assert success_files(output) == COMPLETE

    def test_a_missing_success_is_written_again(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus)
        before = published_content(output)
        (output / "annotations" / NIGHT / "_SUCCESS").unlink()
        _, computed = run_job(output, corpus)
        assert not computed
        assert published_content(output) == before

    def test_an_emptied_staging_folder_costs_only_time(self, corpus: Path, output: Path) -> None:
        annotate(plan_run(output, corpus))
        shutil.rmtree(output / "_staging" / "parts")
        _, computed = run_job(output, corpus)
        assert computed == {FIRST: 3, SECOND: 3}
        assert success_files(output) == COMPLETE
