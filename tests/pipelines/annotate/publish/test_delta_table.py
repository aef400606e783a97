"""What is published as Delta tables: one snapshot for each ledger, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger
from pipelines.annotate.output.part_writer import PartWriter
from pipelines.annotate.output.partition_state import newest_ledger
from pipelines.annotate.publish.delta_table import behind, mirror
from pipelines.storage.files import open_store
from tests.data.corpora import make_posts, write_posts
from tests.support.killing import run_and_kill, start
from tests.support.nights.published_night import FIRST, NIGHT, corpus, output, replace_with, rows_of
from tests.support.nights.stand_in import annotate, plan_run, publish, published_rows, run_job
from tests.support.services.emulators import Emulator
from tests.support.services.object_stores import s3

deltalake = pytest.importorskip("deltalake", reason="needs the extra `delta`")

__all__ = ["corpus", "output", "s3"]

TableNotFoundError = pytest.importorskip("deltalake.exceptions").TableNotFoundError
ROWS = 4


def rows_in(url: object) -> list[tuple[str, int]]:
    """(source_file, source_row) of both tables."""
    rows: list[tuple[str, int]] = []
    for tree in layout.TREES:
        place = f"{url}/{layout.delta_table(tree)}"
        with contextlib.suppress(TableNotFoundError):
            table = deltalake.DeltaTable(place).to_pyarrow_table()
            columns = (table[name].to_pylist() for name in ("source_file", "source_row"))
            rows += zip(*columns, strict=True)
    return sorted(rows)


def newest(output: Path) -> Any:
    return deltalake.DeltaTable(str(output / layout.delta_table(layout.ANNOTATIONS)))


def test_each_night_and_each_change_is_a_version_and_earlier_ones_can_be_read(
    corpus: Path, output: Path
) -> None:
    odd = "dt=a b%25ü"
    write_posts(corpus / odd / "x.parquet", [*make_posts(2, 50), {"post_id": None}])
    run_job(output, corpus, table="delta")
    before, version = rows_in(output), newest(output).version()
    assert before == published_rows(output)
    assert {*newest(output).to_pyarrow_table()["dt"].to_pylist()} == {"2026-11-17", "a b%ü"}

    replace_with(corpus / FIRST, 3)
    replace_with(corpus / odd / "x.parquet", 4)
    run_job(output, corpus, table="delta")
    assert rows_in(output) == published_rows(output)
    assert newest(output).version() == version + 2
    earlier = newest(output)
    earlier.load_as_version(version)
    assert earlier.to_pyarrow_table().num_rows == 22

    plan = plan_run(output, corpus, table="delta")
    assert (plan.units, plan.publish) == ((), ())


def test_a_table_that_is_wanted_later_has_what_is_published(corpus: Path, output: Path) -> None:
    run_job(output, corpus)
    _, computed = run_job(output, corpus, table="delta")
    assert not computed
    assert rows_in(output) == rows_of(first=10, second=10)


def test_a_new_kept_column_is_a_new_column_of_the_table(output: Path) -> None:
    store, ledger = open_store(str(output)), Ledger(())
    for number, columns in enumerate((["post_id"], ["post_id", "lang"]), 1):
        table = pa.table({name: ["x"] for name in columns})
        writer = PartWriter(store, f"annotations/{NIGHT}/{number}.parquet", table.schema)
        writer.add(table)
        part = writer.close()
        assert part is not None
        parts = {**ledger.parts.get("annotations", {}), f"{number}.parquet": part}
        ledger = dataclasses.replace(ledger, parts={"annotations": parts})
        mirror(store, NIGHT, number, ledger)
    assert sorted(newest(output).to_pyarrow_table()["lang"].to_pylist(), key=str) == [None, "x"]


def publish_plan(plan: Plan) -> None:
    publish(plan)


def test_killed_anywhere_it_has_the_old_night_or_the_new_and_the_next_run_brings_it(
    corpus: Path, output: Path, tmp_path: Path
) -> None:
    run_job(output, corpus, table="delta")
    replace_with(corpus / FIRST, 3)
    plan = plan_run(output, corpus, table="delta")
    annotate(plan)
    old, new = rows_of(first=10, second=10), rows_of(first=3, second=10)
    for step in itertools.count(2, 4):
        copy = tmp_path / f"killed-{step}"
        shutil.copytree(output, copy)
        options = dataclasses.replace(plan.options, output=str(copy))
        killed = run_and_kill(step, publish_plan, dataclasses.replace(plan, options=options))
        assert rows_in(copy) in (old, new), f"step {step}"
        _, computed = run_job(copy, corpus, table="delta")
        assert (rows_in(copy), computed) == (new, {}), f"step {step}"
        if not killed:
            break
    assert step > 10


def test_a_commit_whose_answer_is_lost_is_found_in_the_log(
    corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, answers = deltalake.DeltaTable.create_write_transaction, itertools.count(1)

    def lost(self: Any, *arguments: Any, **more: Any) -> None:
        commit(self, *arguments, **more)
        next(answers)
        raise OSError("connection reset")

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", lost)
    run_job(output, corpus, table="delta")
    assert rows_in(output) == rows_of(first=10, second=10)
    assert next(answers) == 2


def test_an_older_ledger_that_comes_late_changes_nothing(corpus: Path, output: Path) -> None:
    run_job(output, corpus, table="delta")
    store = open_store(str(output))
    number, ledger = newest_ledger(store, NIGHT)
    assert ledger is not None
    replace_with(corpus / FIRST, 3)
    run_job(output, corpus, table="delta")
    version = newest(output).version()
    mirror(store, NIGHT, number, ledger)
    assert newest(output).version() == version
    assert behind(store, {NIGHT: (number + 2, ledger)}) == {NIGHT}


def bring_and_replace(environment: dict[str, str], url: str, path: Path, first: int) -> None:
    os.environ.update(environment)
    for turn in range(2):
        write_posts(path, make_posts(ROWS, first + turn))
        run_job(url, path, run_id=f"{first}-{turn}", table="delta")


def read_until(environment: dict[str, str], url: str, done: Path) -> None:
    os.environ.update(environment)
    while not done.exists():
        seen = rows_in(url)
        assert len(seen) == len(set(seen)) and len(seen) % ROWS == 0


def test_runs_at_once_on_a_store_lose_nothing_and_readers_see_whole_files(
    s3: Emulator, tmp_path: Path
) -> None:
    """Each run brings a file of one night, and then replaces it."""
    # In processes of their own: some of deltalake's requests hold up the threads of the server.
    environment = {**s3.environment, "AWS_ALLOW_HTTP": "true"}
    url = f"{s3.make_bucket()}/out"
    paths = [tmp_path / NIGHT / f"{run}.parquet" for run in range(3)]
    runs = [start(bring_and_replace, environment, url, p, 100 * n) for n, p in enumerate(paths)]
    reader = start(read_until, environment, url, tmp_path / "done")
    for process in runs:
        process.join()
    (tmp_path / "done").touch()
    reader.join()
    assert [process.exitcode for process in (*runs, reader)] == [0] * 4
    expected = [(f"{NIGHT}/{path.name}", row) for path in paths for row in range(ROWS)]
    s3.download(url, tmp_path / "out")
    assert rows_in(tmp_path / "out") == expected == published_rows(tmp_path / "out")
