"""One publisher per partition at a time, on a local disk.

The kernel holds the lock and frees it when the process dies. Other stores need none: there
the ledger's number decides between two runs, and what either does is right for both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from pipelines.annotate.output import layout
from pipelines.console.messages import complain
from pipelines.storage.files import OutputError, Store

WAIT_SECONDS = 900.0
SILENT_SECONDS = 2.0


class LockError(OutputError):
    """A partition's lock was not to be had in time."""


@contextlib.contextmanager
def partition_lock(
    store: Store, partition: str, wait_seconds: float = WAIT_SECONDS
) -> Iterator[None]:
    """Hold the lock of a partition; raise LockError where others hold it all the time.

    Who waits for a while says so once.
    """
    if not store.local:
        yield
        return
    began, told = time.monotonic(), False
    name = f"partition {partition or '(none)'}"
    while (descriptor := _try(store, partition)) is None:
        waited = time.monotonic() - began
        if waited > wait_seconds:
            raise LockError(
                f"{name}: another run keeps publishing it; run again when that one is done"
            )
        if waited > SILENT_SECONDS and not told:
            complain(f"{name}: another run publishes it; waiting up to {wait_seconds:.0f} s")
            told = True
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(descriptor)


def check_locks(store: Store) -> None:
    """Raise LockError where the disk has no locks."""
    if store.local and (descriptor := _try(store, "check")) is not None:
        os.close(descriptor)


def _try(store: Store, partition: str) -> int | None:
    """Return a descriptor that holds the lock, None where another process does."""
    path = store.full(layout.lock(partition))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever empties the staging folder takes the file away from under the lock.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(descriptor)
        raise LockError(f"cannot lock {path}: {error.strerror}") from error
    os.close(descriptor)
    return None
