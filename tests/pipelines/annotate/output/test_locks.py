from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipelines.annotate.output import layout, locks
from pipelines.annotate.output.commits import sweep_staging
from pipelines.annotate.output.locks import LockError, partition_lock
from pipelines.storage.files import Store, open_store
from tests.support.killing import start
from tests.support.stand_in import memory_store


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path)) if request.param == "disk" else memory_store("locks")


def hold_for_ever(root: str, held: str) -> None:
    with partition_lock(open_store(root), "dt=1"):
        Path(held).touch()
        time.sleep(600)


class TestEveryStore:
    def test_one_holds_it_at_a_time(self, store: Store) -> None:
        with (
            partition_lock(store, "dt=1"),
            pytest.raises(LockError, match="dt=1: another run keeps publishing"),
            partition_lock(store, "dt=1", wait_seconds=0.1),
        ):
            pass

    def test_who_waits_long_says_so_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(locks, "SILENT_SECONDS", 0.2)
        for patience in (0.1, 1.2):
            with (
                partition_lock(store, "dt=1"),
                pytest.raises(LockError),
                partition_lock(store, "dt=1", wait_seconds=patience),
            ):
                pass

        [line] = capsys.readouterr().err.splitlines()
        assert line == "drf: partition dt=1: another run publishes it; waiting up to 1 s"

    def test_given_back_it_can_be_had_at_once(self, store: Store) -> None:
        for _ in range(3):
            with partition_lock(store, "dt=1", wait_seconds=0) as lock:
                lock.check()

    def test_an_exception_gives_it_back(self, store: Store) -> None:
        with pytest.raises(ValueError), partition_lock(store, "dt=1"):
            raise ValueError
        with partition_lock(store, "dt=1", wait_seconds=0):
            pass

    def test_partitions_do_not_wait_for_each_other(self, store: Store) -> None:
        with (
            partition_lock(store, ""),
            partition_lock(store, "a=1"),
            partition_lock(store, "a=1/b=2", wait_seconds=0),
        ):
            pass


class TestOnADisk:
    def hold(self, tmp_path: Path) -> multiprocessing.Process:
        process = start(hold_for_ever, str(tmp_path / "out"), str(tmp_path / "held"))
        while not (tmp_path / "held").exists():
            time.sleep(0.02)
        return process

    def test_a_killed_process_keeps_nothing(self, tmp_path: Path) -> None:
        process = self.hold(tmp_path)
        store = open_store(str(tmp_path / "out"))
        with pytest.raises(LockError), partition_lock(store, "dt=1", wait_seconds=0.1):
            pass
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        with partition_lock(store, "dt=1", wait_seconds=0):
            pass

    def test_a_process_that_only_sleeps_keeps_it(self, tmp_path: Path) -> None:
        process = self.hold(tmp_path)
        os.kill(process.pid or 0, signal.SIGSTOP)
        try:
            store = open_store(str(tmp_path / "out"))
            with pytest.raises(LockError), partition_lock(store, "dt=1", wait_seconds=0.3):
                pass
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()

    def test_an_emptied_staging_folder_leaves_no_lock_on_nothing(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        with partition_lock(store, "dt=1"):
            shutil.rmtree(tmp_path / "_staging")
            with (
                partition_lock(store, "dt=1", wait_seconds=0),
                pytest.raises(LockError),
                partition_lock(store, "dt=1", wait_seconds=0.1),
            ):
                pass


class TestLeases:
    """A store without locks of its own: a holder that falls silent is overtaken."""

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setattr(locks, "LEASE_SECONDS", 1.0)
        return memory_store("leases")

    def epochs(self, store: Store) -> list[str]:
        return list(store.sizes(f"{layout.LOCKS}/{layout.quoted('dt=1')}"))

    def test_a_silent_holder_is_overtaken_and_stops_before_its_next_step(
        self, store: Store
    ) -> None:
        with partition_lock(store, "dt=1") as silent:
            time.sleep(1.1)
            with partition_lock(store, "dt=1", wait_seconds=0) as other:
                other.check()
                with pytest.raises(LockError, match="took over"):
                    silent.check()
            with pytest.raises(LockError, match="took over"):
                silent.check()

    def test_who_was_overtaken_gives_nothing_back(self, store: Store) -> None:
        first = partition_lock(store, "dt=1")
        first.__enter__()
        time.sleep(1.1)
        with partition_lock(store, "dt=1"):
            first.__exit__(None, None, None)
            with pytest.raises(LockError), partition_lock(store, "dt=1", wait_seconds=0):
                pass

    def test_checking_renews_the_lease(self, store: Store) -> None:
        with partition_lock(store, "dt=1") as lock:
            for _ in range(4):
                time.sleep(0.4)
                lock.check()
            with pytest.raises(LockError), partition_lock(store, "dt=1", wait_seconds=0):
                pass

    def test_numbers_rise(self, store: Store) -> None:
        for _ in range(3):
            with partition_lock(store, "dt=1"):
                pass
        assert self.epochs(store) == [f"00000000{number}.json" for number in (1, 2, 3)]

    def test_old_leases_are_swept_but_for_the_last(self, store: Store) -> None:
        for _ in range(3):
            with partition_lock(store, "dt=1"):
                pass
        sweep_staging(store, older_than_seconds=-1)
        assert self.epochs(store) == ["000000003.json"]
        with partition_lock(store, "dt=1"):
            assert self.epochs(store)[-1] == "000000004.json"

    @pytest.mark.parametrize("seen", [[], [1], [2]])
    def test_a_listing_that_is_behind_lets_nobody_in(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, seen: list[int]
    ) -> None:
        for _ in range(2):
            with partition_lock(store, "dt=1"):
                pass
        with partition_lock(store, "dt=1", wait_seconds=0) as held:
            monkeypatch.setattr(locks, "_listed_epochs", lambda *where: seen)
            held.check()
            with pytest.raises(LockError), partition_lock(store, "dt=1", wait_seconds=0):
                pass
        with partition_lock(store, "dt=1", wait_seconds=0) as held:
            held.check()
