"""Publishing: one run after another, failed files, partitions held back, changed input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines import read_annotations
from pipelines.annotate.publish.partition_tasks import partition_tasks
from pipelines.annotate.publish.publish_partition import PublishError, publish_partition
from tests.data.corpora import damage_footer, make_posts, write_posts
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
    run_job,
    staged_files,
    success_files,
)

__all__ = ["corpus", "output"]


class TestOneRun:
    def test_every_input_row_is_published_once_and_both_trees_say_so(
        self, corpus: Path, output: Path
    ) -> None:
        manifest, _ = run_job(output, corpus)
        assert published_rows(output) == rows_of(first=10, second=10)
        assert success_files(output) == COMPLETE
        assert manifest.partitions == {NIGHT: "published"}
        assert staged_files(output) == set()

    def test_a_second_run_changes_no_byte(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus)
        before = published_bytes(output)
        manifest, computed = run_job(output, corpus)
        assert not computed
        assert published_bytes(output) == before
        assert manifest.partitions == {NIGHT: "up_to_date"}

    def test_a_file_that_is_not_all_committed_is_left_out_whole(
        self, corpus: Path, output: Path
    ) -> None:
        plan = plan_run(output, corpus)
        for shard in (*plan.shards[FIRST][:2], *plan.shards[SECOND]):
            annotate_shard(plan.options, shard)
        result = publish(plan)[NIGHT]
        assert result.status == "incomplete"
        assert result.files[FIRST].status == "incomplete"
        assert result.files[SECOND].status == "published"
        assert published_rows(output) == rows_of(second=10)
        assert success_files(output) == set()
        _, computed = run_job(output, corpus)
        assert computed == {FIRST: 1}
        assert success_files(output) == COMPLETE

    def test_what_is_committed_of_a_new_version_outlives_publishing_without_it(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        replace_with(corpus / FIRST, 8)
        replace_with(corpus / SECOND, 2)
        plan = plan_run(output, corpus)
        for shard in (*plan.shards[FIRST][:1], *plan.shards[SECOND]):
            annotate_shard(plan.options, shard)
        publish(plan)
        assert published_rows(output) == rows_of(first=10, second=2)
        _, computed = run_job(output, corpus)
        assert computed == {FIRST: 1}
        assert published_rows(output) == rows_of(first=8, second=2)

    def test_a_file_without_rows_leaves_no_part(self, tmp_path: Path, output: Path) -> None:
        write_posts(tmp_path / "in" / "none.parquet", [])
        manifest, _ = run_job(output, tmp_path / "in")
        both = {"annotations/_SUCCESS", "dead_letters/_SUCCESS"}
        assert published_bytes(output).keys() == success_files(output) == both
        assert manifest.warnings == ["none.parquet has no rows"]
        _, computed = run_job(output, tmp_path / "in")
        assert not computed

    def test_duplicate_ids_are_counted_within_a_partition(
        self, tmp_path: Path, output: Path
    ) -> None:
        for night in ("1", "2"):
            posts = [*make_posts(3), *make_posts(2), {"post_id": None}, {"post_id": None}]
            write_posts(tmp_path / "in" / f"dt={night}" / "a.parquet", posts)
        manifest, _ = run_job(output, tmp_path / "in")
        assert manifest.totals.duplicate_ids == 4


class TestFailedFiles:
    def test_its_earlier_parts_stay_and_the_partition_is_not_complete(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        earlier = {n: b for n, b in published_bytes(output).items() if n.endswith(".parquet")}
        damage_footer(corpus / FIRST)
        manifest, computed = run_job(output, corpus)
        assert not computed
        assert manifest.exit_code == 4
        assert manifest.failed_files == [FIRST]
        assert success_files(output) == set()
        parts = {n: b for n, b in published_bytes(output).items() if n.endswith(".parquet")}
        assert parts == earlier

    def test_the_other_files_are_published(self, corpus: Path, output: Path) -> None:
        damage_footer(corpus / FIRST)
        manifest, _ = run_job(output, corpus)
        assert manifest.partitions == {NIGHT: "failed"}
        assert published_rows(output) == rows_of(second=10)
        before = published_bytes(output)
        run_job(output, corpus)
        assert published_bytes(output) == before

    def test_a_file_that_fails_at_a_worker_keeps_its_earlier_parts(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        replace_with(corpus / FIRST, 5)
        plan = plan_run(output, corpus)
        result = publish(plan, {FIRST: "a page of it is corrupt"})[NIGHT]
        assert result.status == "failed"
        assert "a page of it is corrupt" in (result.message or "")
        assert published_rows(output) == rows_of(first=10, second=10)
        assert success_files(output) == set()

    def test_beside_it_a_deleted_part_is_still_restored(self, corpus: Path, output: Path) -> None:
        damage_footer(corpus / FIRST)
        run_job(output, corpus)
        before = published_content(output)
        next((output / "annotations" / NIGHT).glob("*.parquet")).unlink()
        _, computed = run_job(output, corpus)
        assert computed == {SECOND: 3}
        assert published_content(output) == before

    def test_readable_again_it_completes_the_partition(self, corpus: Path, output: Path) -> None:
        content = (corpus / FIRST).read_bytes()
        damage_footer(corpus / FIRST)
        run_job(output, corpus)
        (corpus / FIRST).write_bytes(content)
        manifest, _ = run_job(output, corpus)
        assert manifest.exit_code == 0
        assert success_files(output) == COMPLETE

    def test_a_run_over_another_part_of_the_night_does_not_call_it_complete(
        self, corpus: Path, output: Path
    ) -> None:
        damage_footer(corpus / FIRST)
        run_job(output, corpus)
        run_job(output, corpus / SECOND)
        assert success_files(output) == set()

    def test_removed_from_the_input_it_no_longer_counts(self, corpus: Path, output: Path) -> None:
        damage_footer(corpus / FIRST)
        run_job(output, corpus)
        (corpus / FIRST).unlink()
        manifest, computed = run_job(output, corpus)
        assert not computed
        assert manifest.exit_code == 0
        assert success_files(output) == COMPLETE

    def test_withheld_nothing_changes(self, corpus: Path, output: Path) -> None:
        plan = plan_run(output, corpus)
        annotate(plan)
        task = partition_tasks(plan)[NIGHT]
        result = publish_partition(plan.options, task, withhold="--strict: another file failed")
        assert result.status == "held_back"
        assert published_bytes(output) == {}


class TestHeldBack:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        posts = [*make_posts(8), {"post_id": None}, {"post_id": None}]
        write_posts(tmp_path / "in" / FIRST, posts)
        return tmp_path / "in"

    def test_too_many_dead_letters_change_nothing(self, corpus: Path, output: Path) -> None:
        manifest, _ = run_job(output, corpus, max_dead_letter_share=0.1)
        assert manifest.exit_code == 3
        assert manifest.partitions == {NIGHT: "held_back"}
        assert published_bytes(output) == {}
        assert "2 of 10 posts" in manifest.warnings[0]
        assert "no_post_id 2" in manifest.warnings[0]

    def test_a_higher_share_publishes_what_is_committed(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus, max_dead_letter_share=0.1)
        manifest, computed = run_job(output, corpus, max_dead_letter_share=0.2)
        assert not computed
        assert manifest.totals.dead_letters == 2
        assert success_files(output) == COMPLETE

    def test_published_once_it_stays_so(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus, max_dead_letter_share=0.2)
        manifest, _ = run_job(output, corpus, max_dead_letter_share=0.1)
        assert manifest.exit_code == 0


class TestChangedInput:
    def test_exactly_the_rows_of_a_changed_file_are_replaced(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus, run_id="first")
        replace_with(corpus / FIRST, 3)
        _, computed = run_job(output, corpus, run_id="second")
        assert computed == {FIRST: 1}
        assert published_rows(output) == rows_of(first=3, second=10)
        rows = read_annotations(str(output)).to_table(["source_file", "run_id"]).to_pylist()
        runs = {(row["source_file"], row["run_id"]) for row in rows}
        assert runs == {(FIRST, "second"), (SECOND, "first")}
        assert success_files(output) == COMPLETE

    def test_parts_without_rows_of_it_keep_their_bytes(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus, part_bytes=1)
        before = published_bytes(output)
        replace_with(corpus / FIRST, 3)
        run_job(output, corpus, part_bytes=1)
        after = published_bytes(output)
        kept = {name for name in before if name.endswith(".parquet") and name in after}
        assert len(kept) == 3
        assert all(after[name] == before[name] for name in kept)
        assert published_rows(output) == rows_of(first=3, second=10)

    def test_another_model_replaces_everything(self, corpus: Path, output: Path) -> None:
        run_job(output, corpus)
        _, computed = run_job(output, corpus, model_revision="revision-2")
        assert computed == {FIRST: 3, SECOND: 3}
        assert published_rows(output) == rows_of(first=10, second=10)

    def test_changed_after_it_was_planned_it_is_not_published(
        self, corpus: Path, output: Path
    ) -> None:
        plan = plan_run(output, corpus)
        annotate(plan)
        replace_with(corpus / FIRST, 3)
        result = publish(plan)[NIGHT]
        assert result.files[FIRST].status == "failed"
        assert "was changed while" in str(result.files[FIRST].error)
        assert published_rows(output) == rows_of(second=10)

    def test_an_old_plan_does_not_undo_a_newer_content(self, corpus: Path, output: Path) -> None:
        old = plan_run(output, corpus)
        annotate(old)
        replace_with(corpus / FIRST, 3)
        run_job(output, corpus)
        newer = published_bytes(output)
        result = publish(old)[NIGHT]
        assert result.files[FIRST].status == "overtaken"
        assert "planned later" in result.warnings[0]
        assert published_bytes(output) == newer
        manifest, computed = run_job(output, corpus)
        assert not computed
        assert manifest.exit_code == 0
        assert success_files(output) == COMPLETE

    def test_removed_after_it_was_planned_it_is_not_published(
        self, corpus: Path, output: Path
    ) -> None:
        plan = plan_run(output, corpus)
        annotate(plan)
        (corpus / FIRST).unlink()
        assert "was removed while" in str(publish(plan)[NIGHT].files[FIRST].error)

    def test_another_label_set_meanwhile_is_refused(self, corpus: Path, output: Path) -> None:
        plan = plan_run(output, corpus)
        annotate(plan)
        run_job(output, corpus)
        other = dataclasses.replace(plan.options, labels=("no", "yes"))
        with pytest.raises(PublishError, match="no, yes"):
            publish_partition(other, partition_tasks(plan)[NIGHT])


def test_a_settled_output_is_settled_by_absolute_and_relative_paths_alike(
    corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(output, corpus)
    monkeypatch.chdir(corpus.parent)
    assert plan_run("out", "in").publish == ()
