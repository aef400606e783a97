"""Two runs on one output: one is stopped anywhere and goes on, or its last request comes late."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines import read_annotations
from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.publish import publish_partition
from pipelines.annotate.publish.pack import Packed, pack
from pipelines.storage.files import Store
from tests.data.corpora import damage_footer, make_posts, write_posts
from tests.support.nights.published_night import (
    COMPLETE,
    FIRST,
    NIGHT,
    SECOND,
    corpus,
    output,
    rows_of,
)
from tests.support.nights.stand_in import (
    annotate,
    memory_store,
    plan_run,
    publish,
    published_bytes,
    published_rows,
    run_job,
    success_files,
)

__all__ = ["corpus", "output"]

Rows = list[tuple[str, int]]


def rows_of_dataset(dataset: ds.Dataset) -> Rows:
    table = dataset.to_table(["source_file", "source_row"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def rows_by_ledger(store: Store) -> Rows:
    """Of both trees, as who reads by the ledger finds them."""
    trees = (read_annotations(f"memory://{store.root}", tree) for tree in layout.TREES)
    return sorted(row for tree in trees for row in rows_of_dataset(tree))


def rows_by_listing(store: Store) -> Rows:
    """Of both trees, as who reads whatever lies in the folders finds them."""
    rows: Rows = []
    for tree in layout.TREES:
        for name in store.sizes(f"{tree}/{NIGHT}"):
            if name.endswith(".parquet"):
                with store.fs.open(store.full(f"{tree}/{NIGHT}/{name}")) as file:
                    rows += rows_of_dataset(ds.dataset(pq.read_table(file)))
    return sorted(rows)


def revisions(store: Store) -> set[str]:
    table = read_annotations(f"memory://{store.root}").to_table(["model_revision"])
    return set(table["model_revision"].to_pylist())


class Stopped(BaseException):
    """Stands for a process that is killed while a request of its is on its way."""


class Requests:
    """Counts the changes that a run asks of the store; `at` is called before the n-th."""

    def __init__(self, step: int, at: Callable[[Callable[[], object]], object]) -> None:
        self.count, self._step, self._at = 0, step, at
        self._lock = threading.Lock()
        self._paused = False

    def __call__(self, request: Callable[[], object]) -> object:
        with self._lock:
            self.count += not self._paused
            if self._paused or self.count != self._step:
                stops = False
            else:
                stops = self._paused = True
        if not stops:
            return request()
        try:
            return self._at(request)
        finally:
            self._paused = False


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Requests | None], None]]:
    """Has the changes of memory:// pass through what is given."""
    current: list[Requests | None] = [None]
    for name in ("pipe_file", "cp_file", "rm_file"):
        change = getattr(MemoryFileSystem, name)

        def call(self, *args, _change=change, **kwargs):  # type: ignore[no-untyped-def]
            def request() -> object:
                return _change(self, *args, **kwargs)

            return current[0](request) if current[0] is not None else request()

        monkeypatch.setattr(MemoryFileSystem, name, call)

    def use(requests: Requests | None) -> None:
        current[0] = requests

    yield use


def prepare(corpus: Path, name: str) -> tuple[Store, Plan]:
    """A night that is published, and a run that is about to publish it by another model."""
    store = memory_store(name)
    run_job(store.url, corpus)
    plan = plan_run(store.url, corpus, model_revision="revision-2", run_id="stopped")
    annotate(plan)
    return store, plan


class TestOnAStoreWithoutLocks:
    def test_a_run_that_was_stopped_anywhere_does_no_harm_when_it_goes_on(
        self, corpus: Path, counting: Callable[[Requests | None], None]
    ) -> None:
        step = 1
        while True:
            store, plan = prepare(corpus, "stopped")

            def others(request: Callable[[], object], store: Store = store) -> object:
                run_job(store.url, corpus, model_revision="revision-3")
                assert rows_by_ledger(store) == rows_of(first=10, second=10)
                return request()

            requests = Requests(step, others)
            counting(requests)
            publish(plan)
            counting(None)
            if requests.count < step:
                break
            seen = f"step {step}"
            assert rows_by_ledger(store) == rows_of(first=10, second=10), seen
            assert rows_by_listing(store) == rows_of(first=10, second=10), seen
            assert revisions(store) == {"revision-3"}, seen
            again = plan_run(store.url, corpus, model_revision="revision-3")
            assert again.units == (), seen
            step += 3
        assert step > 15

    def test_a_request_that_comes_when_all_is_over_hits_nothing(
        self, corpus: Path, counting: Callable[[Requests | None], None]
    ) -> None:
        step = 1
        while True:
            store, plan = prepare(corpus, "late")
            late: list[Callable[[], object]] = []

            def lose(request: Callable[[], object], late: list = late) -> object:
                late.append(request)
                raise Stopped

            requests = Requests(step, lose)
            counting(requests)
            with contextlib.suppress(Stopped):
                publish(plan)
            counting(None)
            if not late:
                break
            run_job(store.url, corpus, model_revision="revision-3")
            replaced = run_job(store.url, corpus / FIRST, model_revision="revision-4")
            assert replaced[1] == {FIRST: 3}
            listed = store.sizes("", recursive=True)
            before = {n: store.read(n) for n in listed if not n.startswith(layout.STAGED_PARTS)}
            # It may be refused: what it was about is not there any more.
            with contextlib.suppress(OSError):
                late[0]()
            seen = f"step {step}"
            assert rows_by_ledger(store) == rows_of(first=10, second=10), seen
            assert rows_by_listing(store) == rows_of(first=10, second=10), seen
            assert {n: store.read(n) for n in before if n.endswith(".parquet")} == {
                name: data for name, data in before.items() if name.endswith(".parquet")
            }, seen
            run_job(store.url, corpus / SECOND, model_revision="revision-5")
            assert rows_by_listing(store) == rows_of(first=10, second=10), seen
            step += 3
        assert step > 15

    def test_runs_that_meet_again_and_again_all_come_to_their_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each has a file of the night, and proves its part while the others commit theirs."""
        store, runs = memory_store("meet"), 4
        plans = []
        for run in range(runs):
            path = write_posts(tmp_path / NIGHT / f"{run}.parquet", make_posts(3, 10 * run))
            plans.append(plan_run(store.url, path, run_id=f"run-{run}"))
            annotate(plans[-1])
        tries = itertools.count()
        all_there = threading.Barrier(runs)

        def pack_slowly(*arguments: Any) -> Packed:
            packed = pack(*arguments)
            if next(tries) < runs:
                all_there.wait(60)
            return packed

        monkeypatch.setattr(publish_partition, "pack", pack_slowly)
        with ThreadPoolExecutor(runs) as pool:
            results = list(pool.map(publish, plans))
        assert {result[NIGHT].status for result in results} == {"published"}
        assert next(tries) <= 2 * runs * runs
        assert rows_by_listing(store) == rows_by_ledger(store)
        assert len(set(rows_by_ledger(store))) == len(rows_by_ledger(store)) == 3 * runs


class TestWhatIsTrueNowBeatsThePlan:
    def test_a_run_with_an_older_model_that_ends_last_changes_nothing(
        self, corpus: Path, output: Path
    ) -> None:
        older = plan_run(output, corpus, model_revision="revision-1")
        annotate(older)
        run_job(output, corpus, model_revision="revision-2")
        before = published_bytes(output)
        result = publish(older)[NIGHT]
        assert published_bytes(output) == before
        assert {file.status for file in result.files.values()} == {"overtaken"}
        assert "a run that was planned later has published" in result.warnings[0]

    def test_a_run_that_found_a_file_damaged_leaves_it_where_it_is_mended_and_published(
        self, corpus: Path, output: Path
    ) -> None:
        content = (corpus / FIRST).read_bytes()
        damage_footer(corpus / FIRST)
        late = plan_run(output, corpus)
        annotate(late)
        (corpus / FIRST).write_bytes(content)
        run_job(output, corpus)
        before = published_bytes(output)
        result = publish(late)[NIGHT]
        assert published_bytes(output) == before
        assert success_files(output) == COMPLETE
        assert result.files[FIRST].status == "overtaken"

    def test_a_run_whose_input_was_removed_and_pruned_takes_no_success(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        late = plan_run(output, corpus, model_revision="revision-2")
        annotate(late)
        (corpus / FIRST).unlink()
        run_job(output, corpus, prune=True, model_revision="revision-2")
        publish(late)
        assert published_rows(output) == rows_of(second=10)
        assert success_files(output) == COMPLETE


class TestOneNameAFile:
    """However the input is written, a file's posts are published once."""

    def write(self, folder: Path) -> Path:
        write_posts(folder / "posts" / "a" / "x.parquet", make_posts(3))
        write_posts(folder / "posts" / "b" / "x.parquet", make_posts(2, 100))
        return folder / "posts"

    @pytest.mark.parametrize(
        "first, then",
        [("", "a"), ("a", ""), ("*/x.parquet", ""), ("", "a/x.parquet"), ("a/x.parquet", "**")],
    )
    def test_first_written_so_and_then_so(
        self, tmp_path: Path, output: Path, first: str, then: str
    ) -> None:
        posts = self.write(tmp_path)
        run_job(output, posts / first)
        names = {name for name, _ in published_rows(output)}
        run_job(output, posts / then)
        assert len(published_rows(output)) in (3, 5)
        assert len(set(published_rows(output))) == len(published_rows(output))
        assert names <= {name for name, _ in published_rows(output)}
        _, computed = run_job(output, posts)
        assert len(published_rows(output)) == 5
        _, computed = run_job(output, posts)
        assert not computed

    def test_a_file_whose_name_another_has_gets_more_of_its_path(
        self, tmp_path: Path, output: Path
    ) -> None:
        posts = self.write(tmp_path)
        write_posts(posts / "x.parquet", make_posts(4, 200))
        run_job(output, posts / "a")
        run_job(output, posts)
        names = {name for name, _ in published_rows(output)}
        assert names == {"x.parquet", "b/x.parquet", "posts/x.parquet"}
        assert len(published_rows(output)) == 9

    def test_two_runs_that_write_it_differently_at_once_publish_it_once(
        self, tmp_path: Path, output: Path
    ) -> None:
        posts = self.write(tmp_path)
        one, two = plan_run(output, posts), plan_run(output, posts / "a")
        annotate(one)
        annotate(two)
        publish(one)
        before = published_bytes(output)
        assert publish(two)[""].files["x.parquet"].status == "overtaken"
        assert published_bytes(output) == before


class TestWrittenAnew:
    def test_under_new_names_it_is_not_called_complete_until_it_is_pruned(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        for name in ("part-00000", "part-00001"):
            (corpus / NIGHT / f"{name}.parquet").rename(corpus / NIGHT / f"{name}-new.parquet")
        manifest, _ = run_job(output, corpus)
        assert manifest.partitions == {NIGHT: "orphaned"}
        assert any("its input is gone and its posts are still" in w for w in manifest.warnings)
        assert success_files(output) == set()
        again, computed = run_job(output, corpus)
        assert (again.partitions, again.exit_code, computed) == ({NIGHT: "orphaned"}, 0, {})
        manifest, computed = run_job(output, corpus, prune=True)
        assert (manifest.exit_code, computed) == (0, {})
        assert len(published_rows(output)) == 20
        assert success_files(output) == COMPLETE

    def test_a_night_whose_whole_input_was_put_away_stays_complete(
        self, corpus: Path, output: Path
    ) -> None:
        run_job(output, corpus)
        shutil.move(corpus / NIGHT, corpus.parent / "archive")
        write_posts(corpus / "dt=2026-11-20" / "a.parquet", make_posts(2))
        run_job(output, corpus)
        assert success_files(output) > COMPLETE
