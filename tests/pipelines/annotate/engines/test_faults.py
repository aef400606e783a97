"""Faults that no retry mends end a job whose engine would go on trying."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipelines.annotate.engines import faults
from pipelines.annotate.engines.faults import (
    cancelled_on_faults,
    faults_told,
    forget_faults,
)
from pipelines.annotate.engines.runners import JobError
from pipelines.annotate.output.layout import FAULTS
from pipelines.annotate.work.check_worker import ModelError
from pipelines.storage.files import OutputError, Store, open_store
from schemas.errors import UsageError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(faults, "_LOOK_SECONDS", 0.01)
    return open_store(str(tmp_path))


def fail(store: Store, run_id: str, error: Exception) -> None:
    """What a worker does whose work unit raises."""
    with pytest.raises(type(error)), faults_told(store, run_id):
        raise error


class Job:
    """Stands in for a job on an engine that tries again until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def wait(self) -> None:
        assert self.cancelled.wait(20)


def test_a_fault_that_came_back_cancels_the_job_and_is_its_last_word(store: Store) -> None:
    job = Job()
    fail(store, "night-1", ModelError("this worker has version 1"))
    fail(store, "night-1", UsageError("no GPU on this worker"))
    with (
        pytest.raises(JobError, match=r"^(this worker has version 1|no GPU on this worker)$"),
        cancelled_on_faults(store, "night-1", job.cancelled.set),
    ):
        job.wait()


def test_the_exit_code_is_that_of_the_fault(store: Store) -> None:
    job = Job()
    for _ in range(2):
        fail(store, "night-1", UsageError("no GPU on this worker"))
    with (
        pytest.raises(JobError) as raised,
        cancelled_on_faults(store, "night-1", job.cancelled.set),
    ):
        job.wait()
    assert raised.value.exit_code == UsageError.exit_code != JobError.exit_code


def test_what_the_engine_says_of_a_cancelled_job_is_not_the_last_word(store: Store) -> None:
    job = Job()
    for _ in range(2):
        fail(store, "night-1", ModelError("no model here"))
    with (
        pytest.raises(JobError, match="no model here"),
        cancelled_on_faults(store, "night-1", job.cancelled.set),
    ):
        job.wait()
        raise RuntimeError("Job was cancelled")


@pytest.mark.parametrize(
    ("run_id", "error", "times"),
    [
        # One worker of many may be broken; another one takes its place.
        ("night-1", ModelError("this worker has version 1"), 1),
        # Another run's, also one whose name begins alike.
        ("night-10", ModelError("this worker has version 1"), 2),
        # What may pass is the engine's to try again.
        ("night-1", OutputError("cannot write"), 3),
        ("night-1", RuntimeError("connection lost"), 3),
    ],
)
def test_what_may_pass_leaves_the_job_alone(
    store: Store, run_id: str, error: Exception, times: int
) -> None:
    job = Job()
    for _ in range(times):
        fail(store, run_id, error)
    with cancelled_on_faults(store, "night-1", job.cancelled.set):
        assert not job.cancelled.wait(0.3)


def test_what_cannot_be_looked_at_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, looked = Job(), []

    def look(store: Store, run_id: str) -> JobError | None:
        looked.append(1)
        if len(looked) < 3:
            raise ConnectionResetError
        return JobError("no model here")

    monkeypatch.setattr(faults, "fault_on_record", look)
    with (
        pytest.raises(JobError, match="no model here"),
        cancelled_on_faults(store, "night-1", job.cancelled.set),
    ):
        job.wait()


def test_faults_of_an_earlier_try_are_forgotten(store: Store) -> None:
    for run_id in ("night-1", "night-1", "night-2"):
        fail(store, run_id, ModelError("this worker has version 1"))
    forget_faults(store, "night-1")
    assert [name.partition("~")[0] for name in store.sizes(FAULTS)] == ["night-2"]


def test_a_worker_that_cannot_write_raises_what_it_met(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    fail(open_store(str(tmp_path / "out")), "night-1", ModelError("no model here"))
