"""Faults that no retry mends: told by workers to the client, who cancels the job.

Flink and Dataflow try again what raised, for minutes; a model that no worker can load fails the
same way each time. Workers write down such a fault in the output before they raise it. Where it
is the output that they cannot write, the engine's own retries have to run out.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator

from drf_core.checkpoint import CheckpointError
from pipelines.annotate.engines.runners import JobError
from pipelines.annotate.output import layout
from pipelines.annotate.work.check_worker import ModelError
from pipelines.storage.files import OutputRefusedError, Store, to_json
from pipelines.threads import beside
from schemas.errors import UsageError

LASTING_FAULTS = (ModelError, CheckpointError, UsageError, OutputRefusedError)

# More than one: it may be a single worker that is broken, and another one takes its place.
_ENOUGH = 2
_LOOK_SECONDS = 2.0


@contextlib.contextmanager
def faults_told(store: Store, run_id: str) -> Iterator[None]:
    """On a worker: write down a lasting fault that the block raises, and let it pass."""
    try:
        yield
    except LASTING_FAULTS as error:
        fault = {"message": str(error), "exit_code": error.exit_code}
        # Where it cannot be written, the engine's own retries have to do.
        with contextlib.suppress(Exception):
            name = layout.fault_record(run_id, uuid.uuid4().hex)
            store.write(name, to_json(fault), durable=False)
        raise


def forget_faults(store: Store, run_id: str) -> None:
    """Remove a run's fault records: of an earlier try under its id, or after its end."""
    store.for_each(store.remove, _records(store, run_id))


def fault_on_record(store: Store, run_id: str) -> JobError | None:
    """What the workers of a run wrote down often enough, None as long as they did not."""
    records = _records(store, run_id)
    if len(records) < _ENOUGH or not (fault := store.read_json(records[-1])):
        return None
    error = JobError(fault["message"])
    error.exit_code = fault["exit_code"]
    return error


@contextlib.contextmanager
def cancelled_on_faults(store: Store, run_id: str, cancel: Callable[[], object]) -> Iterator[None]:
    """On the client: call `cancel` once when a fault of the run is on record.

    Raises it as a JobError when the block ends.
    """
    faults: list[JobError] = []

    def watch(ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            # A look that fails is tried again; the job itself meets a lasting fault, too.
            with contextlib.suppress(Exception):
                if (error := fault_on_record(store, run_id)) is not None:
                    faults.append(error)
                    cancel()
                    return

    try:
        with beside("job-faults", watch):
            yield
    finally:
        if faults:
            # Whatever the engine says of a job that was cancelled, this is why.
            raise faults[0]


def _records(store: Store, run_id: str) -> list[str]:
    mark = layout.fault_record(run_id, "").removesuffix(".json")
    names = sorted(f"{layout.FAULTS}/{name}" for name in store.sizes(layout.FAULTS))
    return [name for name in names if name.startswith(mark)]
