from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipelines.annotate.output import locks
from pipelines.annotate.output.locks import LockError, partition_lock
from pipelines.storage.files import Store, open_store
from tests.support.killing import start


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def hold_for_ever(root: str, held: str) -> None:
    with partition_lock(open_store(root), "dt=1"):
        Path(held).touch()
        time.sleep(600)


class TestALock:
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
            with partition_lock(store, "dt=1", wait_seconds=0):
                pass

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


class TestProcesses:
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
