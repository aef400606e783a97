from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.annotate.job import RowOptions, Shard
from pipelines.annotate.manifest import build_manifest, write_manifest
from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Counts, Ledger, LedgerFile, Part, ShardEntry
from pipelines.annotate.output.partition_state import add_ledger, success_text
from pipelines.annotate.planning.make_plan import describe_plan, make_plan
from pipelines.posts.inputs import list_inputs
from pipelines.storage.files import Store, open_store
from schemas.errors import UsageError
from tests.data.corpora import damage_footer, make_posts, write_nights, write_posts
from tests.support.nights.stand_in import (
    annotate,
    annotate_shard,
    job_options,
    plan_run,
    publish,
    published_bytes,
    published_rows,
    run_job,
)

NIGHTS = ["2026-11-17", "2026-11-18"]


class TestPlan:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        write_nights(tmp_path / "in", NIGHTS)
        return tmp_path / "in"

    def todo(self, plan) -> list[Shard]:  # type: ignore[no-untyped-def]
        return [shard for unit in plan.units for shard in unit.shards]

    def test_at_first_everything_is_to_be_done(self, corpus: Path, tmp_path: Path) -> None:
        plan = plan_run(tmp_path / "out", corpus)
        assert sum(unit.rows for unit in plan.units) == 40
        assert plan.publish == ("dt=2026-11-17", "dt=2026-11-18")
        assert not (tmp_path / "out").exists()

    def test_what_is_committed_is_not_computed_but_published(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        plan = plan_run(tmp_path / "out", corpus)
        annotate_shard(plan.options, self.todo(plan)[0])
        again = plan_run(tmp_path / "out", corpus)
        assert self.todo(again) == self.todo(plan)[1:]
        annotate(again)
        last = plan_run(tmp_path / "out", corpus)
        assert last.units == ()
        assert last.publish == plan.publish

    def test_what_is_published_is_left_alone(self, corpus: Path, tmp_path: Path) -> None:
        run_job(tmp_path / "out", corpus)
        plan = plan_run(tmp_path / "out", corpus)
        assert (plan.units, plan.publish) == ((), ())

    def test_a_new_night_runs_alone(self, corpus: Path, tmp_path: Path) -> None:
        run_job(tmp_path / "out", corpus)
        write_posts(corpus / "dt=2026-11-19" / "a.parquet", make_posts(3, 100))
        plan = plan_run(tmp_path / "out", corpus)
        assert {shard.partition for shard in self.todo(plan)} == {"dt=2026-11-19"}
        assert plan.publish == ("dt=2026-11-19",)

    def test_partitions_that_not_all_readers_take_for_one_table_are_told(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        run_job(tmp_path / "out", corpus)
        assert plan_run(tmp_path / "out", corpus).warnings == ()
        write_posts(tmp_path / "more" / "DT=2026-11-19" / "a.parquet", make_posts(3, 100))
        (warning,) = plan_run(tmp_path / "out", tmp_path / "more").warnings
        assert "(DT=2026-11-19, dt=2026-11-17): DuckDB and Spark do not" in warning

    def test_a_file_that_fails_is_named_and_its_complete_partition_reopened(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        run_job(tmp_path / "out", corpus)
        damage_footer(corpus / "dt=2026-11-17" / "part-00000.parquet")
        plan = plan_run(tmp_path / "out", corpus)
        assert [file.source_file for file in plan.failed_files] == [
            "dt=2026-11-17/part-00000.parquet"
        ]
        assert plan.publish == ("dt=2026-11-17",)
        assert plan.units == ()

    def test_another_label_set_is_refused(self, corpus: Path, tmp_path: Path) -> None:
        run_job(tmp_path / "out", corpus)
        with pytest.raises(UsageError, match=r"negative, neutral, positive.*no, yes"):
            plan_run(tmp_path / "out", corpus, labels=("no", "yes"))

    def test_an_unknown_reason_to_retry_is_refused(self, corpus: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"fetch_faild.*fetch_failed"):
            plan_run(tmp_path / "out", corpus, retry=["fetch_faild"])

    def test_retry_takes_the_shards_with_the_reason(self, tmp_path: Path) -> None:
        posts = make_posts(12)
        posts[1]["text"] = posts[9]["text"] = None
        posts[10]["post_id"] = None
        write_posts(tmp_path / "in" / "a.parquet", posts)
        run_job(tmp_path / "out", tmp_path / "in")

        def rows(*reasons: str) -> list[int]:
            plan = plan_run(tmp_path / "out", tmp_path / "in", retry=reasons)
            return [shard.first_row for shard in self.todo(plan)]

        assert rows("missing") == [0, 8]
        assert rows("no_post_id") == [8]
        assert rows("fetch_failed") == []

    def test_a_killed_retry_is_resumed_by_the_next(self, tmp_path: Path) -> None:
        posts = make_posts(8)
        posts[1]["text"] = posts[5]["text"] = None
        write_posts(tmp_path / "in" / "a.parquet", posts)
        run_job(tmp_path / "out", tmp_path / "in")
        plan = plan_run(tmp_path / "out", tmp_path / "in", retry=["missing"])
        annotate_shard(plan.options, self.todo(plan)[0])
        again = plan_run(tmp_path / "out", tmp_path / "in", retry=["missing"])
        assert self.todo(again) == self.todo(plan)[1:]

    def test_a_retry_takes_what_a_run_held_back(self, tmp_path: Path) -> None:
        posts = make_posts(8)
        posts[1]["text"] = posts[5]["post_id"] = None
        write_posts(tmp_path / "in" / "a.parquet", posts)

        def run(retry: Sequence[str] = (), **changes: object) -> list[tuple[int, int]]:
            started = datetime.now(timezone.utc)
            plan = plan_run(
                tmp_path / "out", tmp_path / "in", retry=retry, max_dead_letter_share=0.1, **changes
            )
            annotate(plan)
            manifest = build_manifest(plan, publish(plan), started=started)
            write_manifest(str(tmp_path / "out"), manifest)
            assert manifest.partitions == {"": "held_back"}
            return [(shard.first_row, shard.generation) for shard in self.todo(plan)]

        assert run(run_id="first") == [(0, 0), (4, 0)]
        assert run(run_id="second") == []
        assert run(["no_post_id"], run_id="third") == [(4, 1)]
        assert run(["no_post_id"], run_id="fourth") == [(4, 2)]
        assert run(run_id="fifth") == []
        assert run(["missing"], run_id="sixth") == [(0, 1)]

    def test_an_up_to_date_corpus_of_a_thousand_shards_is_planned_from_its_ledger(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        posts = [{"post_id": str(number), "text": "t", "image": b"i"} for number in range(1_000)]
        write_posts(tmp_path / "in" / "dt=1" / "a.parquet", posts, row_group_rows=1)
        plan = plan_run(tmp_path / "out", tmp_path / "in", shard_rows=1)
        (file,) = plan.files
        name = layout.part_name(1, 0, "0" * 16)
        entries = [
            ShardEntry(shard.key, shard.key, 0, shard.first_row, 1, 1, 0, Counts(), name)
            for shard in plan.shards[file.source_file]
        ]
        store = open_store(plan.options.output)
        store.write(f"{layout.ANNOTATIONS}/dt=1/{name}", b"")
        for tree in layout.TREES:
            store.write(f"{tree}/dt=1/{layout.SUCCESS}", success_text("dt=1", 1))
        files = {file.source_file: LedgerFile(file.path, file.identity, 1_000, tuple(entries))}
        parts = {layout.ANNOTATIONS: {name: Part(1_000, 0, "")}}
        add_ledger(store, "dt=1", 1, Ledger(plan.options.labels, files, parts))
        requests: list[str] = []
        asked = Store._do
        monkeypatch.setattr(
            Store, "_do", lambda store, request: requests.append("") or asked(store, request)
        )
        again = plan_run(tmp_path / "out", tmp_path / "in", shard_rows=1)
        assert 0 < len(requests) < 20
        assert (again.units, again.publish) == ((), ())


class TestInputsOfOneName:
    def write(self, folder: Path, posts: int = 3) -> Path:
        return write_posts(folder / "part-0.parquet", make_posts(posts))

    def test_do_not_replace_each_other_in_one_output(self, tmp_path: Path) -> None:
        one, two = self.write(tmp_path / "one"), self.write(tmp_path / "two")
        run_job(tmp_path / "out", one.parent)
        before = published_bytes(tmp_path / "out")
        with pytest.raises(UsageError) as fault:
            plan_run(tmp_path / "out", two.parent)
        assert str(one) in str(fault.value)
        assert str(two) in str(fault.value)
        damage_footer(two)
        with pytest.raises(UsageError, match="would replace"):
            plan_run(tmp_path / "out", two.parent)
        assert published_bytes(tmp_path / "out") == before

    def test_published_meanwhile_by_another_run_the_second_fails(self, tmp_path: Path) -> None:
        one, two = self.write(tmp_path / "one"), self.write(tmp_path / "two", 5)
        plan = plan_run(tmp_path / "out", two)
        run_job(tmp_path / "out", one)
        annotate(plan)
        (result,) = publish(plan).values()
        assert result.files["part-0.parquet"].status == "failed"
        assert published_rows(tmp_path / "out") == [("part-0.parquet", row) for row in range(3)]

    def test_an_input_that_was_moved_takes_its_own_place(self, tmp_path: Path) -> None:
        one = self.write(tmp_path / "one")
        run_job(tmp_path / "out", one.parent)
        one.parent.rename(tmp_path / "two")
        assert plan_run(tmp_path / "out", tmp_path / "two").units == ()

    def test_spellings_of_one_path_are_one_input(self, tmp_path: Path) -> None:
        one = self.write(tmp_path / "one")
        run_job(tmp_path / "out", one.parent)
        (tmp_path / "link").symlink_to(one.parent)
        self.write(tmp_path / "one", 4)
        for path in (f"file://{one.parent}", f"{tmp_path}/./one", tmp_path / "link"):
            assert plan_run(tmp_path / "out", path).publish == ("",)


def test_a_kept_column_has_the_type_of_the_first_file_that_gives_it_one(tmp_path: Path) -> None:
    types = [pa.null(), pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.int64()]
    posts = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    for number, type_ in enumerate(types):
        path = tmp_path / "in" / f"{number}.parquet"
        lang = 1 if type_ == pa.int64() else None if type_ == pa.null() else "en"
        post = {**make_posts(1)[0], "lang": lang}
        write_posts(path, [post], types={**posts, "lang": type_})
    options = job_options(tmp_path / "out", rows=RowOptions(keep=("lang",)))
    plan = make_plan(options, list_inputs([str(tmp_path / "in")], keep=["lang"]))
    assert [file.source_file for file in plan.files] == ["0.parquet", "1.parquet", "2.parquet"]
    (number,) = plan.failed_files
    assert "3.parquet: column 'lang': found int64, expected string" in number.error


class TestOrphans:
    @pytest.fixture
    def published(self, tmp_path: Path) -> Path:
        """An output of two nights; the input of the first file is gone since."""
        paths = write_nights(tmp_path / "in", NIGHTS)
        run_job(tmp_path / "out", tmp_path / "in")
        paths[0].unlink()
        return tmp_path

    def test_are_files_whose_input_is_gone(self, published: Path) -> None:
        plan = plan_run(published / "out", published / "in")
        assert plan.orphans == ("dt=2026-11-17/part-00000.parquet",)
        # It holds posts of a file that is gone, and shall no longer be called complete.
        assert plan.publish == ("dt=2026-11-17",)
        assert plan_run(published / "out", published / "in", prune=True).publish == (
            "dt=2026-11-17",
        )

    def test_are_looked_for_only_below_the_roots_given(self, published: Path) -> None:
        inside = published / "in" / "dt=2026-11-18"
        assert plan_run(published / "out", inside, prune=True).orphans == ()

    def test_a_file_that_a_glob_does_not_name_is_none(self, published: Path) -> None:
        pattern = published / "in" / "*" / "part-00001.parquet"
        plan = plan_run(published / "out", pattern)
        assert plan.orphans == ("dt=2026-11-17/part-00000.parquet",)

    def test_a_file_that_cannot_be_read_is_none(self, published: Path) -> None:
        damage_footer(published / "in" / "dt=2026-11-17" / "part-00001.parquet")
        plan = plan_run(published / "out", published / "in")
        assert plan.orphans == ("dt=2026-11-17/part-00000.parquet",)

    def test_an_empty_input_refuses_everything(self, published: Path) -> None:
        for path in (published / "in").rglob("*.parquet"):
            path.unlink()
        before = published_bytes(published / "out")
        with pytest.raises(UsageError, match="holds no"):
            plan_run(published / "out", published / "in", prune=True)
        assert published_bytes(published / "out") == before

    def test_an_input_whose_absence_cannot_be_told_refuses_prune(
        self, published: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(url: str) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pipelines.annotate.planning.make_plan.input_gone", refuse)
        with pytest.raises(UsageError, match="Permission denied; nothing was removed"):
            plan_run(published / "out", published / "in", prune=True)
        assert plan_run(published / "out", published / "in").orphans == ()


def test_a_dry_run_says_what_would_be_done(tmp_path: Path) -> None:
    paths = write_nights(tmp_path / "in", NIGHTS)
    run_job(tmp_path / "out", tmp_path / "in")
    write_posts(paths[0], make_posts(5, 77))
    paths[1].unlink()
    damage_footer(paths[3])
    text = "\n".join(describe_plan(plan_run(tmp_path / "out", tmp_path / "in")))
    assert "to annotate: 5 posts of 1 files" in text
    assert "dt=2026-11-17/part-00000.parquet: 5 of 5 posts" in text
    assert "publish: dt=2026-11-17" in text
    assert "failed: dt=2026-11-18/part-00001.parquet" in text
    assert "orphan (input gone; --prune removes its parts): dt=2026-11-17/part-00001" in text


def test_a_dry_run_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    write_nights(tmp_path / "in", NIGHTS)
    run_job(tmp_path / "out", tmp_path / "in")
    assert describe_plan(plan_run(tmp_path / "out", tmp_path / "in"))[-1] == "nothing to do"


def test_planning_imports_neither_torch_nor_beam() -> None:
    code = "import sys, pipelines.annotate.planning.make_plan, pipelines.annotate.manifest; "
    code += "import pipelines.annotate.publish.publish_partition; "
    code += "sys.exit(bool({'torch', 'apache_beam'} & set(sys.modules)))"
    root = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
