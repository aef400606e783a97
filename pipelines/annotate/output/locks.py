"""One publisher per partition at a time, by a lock that a dead process cannot keep.

On a local disk the kernel holds the lock and frees it when the process dies. Other stores
have no such thing: there the lock is a lease. Its files are numbered without gaps (epochs),
each is created on the condition, which the store checks, that there is none of that name, and
the holder is who created the highest. A holder that slept past its lease finds the next epoch
when it checks, before its next visible step, and stops. Epochs are looked up by name; a
listing, which may be behind, only says where to begin. The clocks of the machines must agree
to within a lease.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.annotate.output import layout
from pipelines.console.messages import complain
from pipelines.storage.files import OutputError, Store, to_json

LEASE_SECONDS = 120.0
WAIT_SECONDS = 900.0
SILENT_SECONDS = 2.0


class LockError(OutputError):
    """A partition's lock was not to be had in time, or was lost."""


class Lock:
    """A lock that is held. check() before every visible step."""

    def check(self) -> None:
        """Raise LockError where another run has taken over."""


@contextlib.contextmanager
def partition_lock(
    store: Store, partition: str, wait_seconds: float = WAIT_SECONDS
) -> Iterator[Lock]:
    """Hold the lock of a partition; raise LockError where others hold it all the time."""
    lock = _kernel_lock if store.local else _lease_lock
    with lock(store, partition, _Patience(partition, wait_seconds)) as held:
        yield held


@contextlib.contextmanager
def _kernel_lock(store: Store, partition: str, patience: _Patience) -> Iterator[Lock]:
    import fcntl

    path = store.full(f"{layout.LOCKS}/{layout.quoted(partition)}.lock")
    while True:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever empties the staging folder takes the file away from under the lock.
            if _same_file(descriptor, path):
                break
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise LockError(f"cannot lock {path}: {error.strerror}") from error
        os.close(descriptor)
        patience.wait(0.05)
    try:
        yield Lock()
    finally:
        os.close(descriptor)


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class _Lease:
    """One epoch's file. expires: seconds since 1970; 0 once it is given back."""

    holder: str
    expires: float


@contextlib.contextmanager
def _lease_lock(store: Store, partition: str, patience: _Patience) -> Iterator[Lock]:
    lock = None
    while lock is None:
        lock = _LeaseLock.take(store, partition)
        if lock is None:
            patience.wait(0.5)
    try:
        yield lock
    finally:
        lock.give_back()


class _LeaseLock(Lock):
    def __init__(self, store: Store, partition: str, epoch: int, lease: _Lease) -> None:
        self._store = store
        self._partition = partition
        self._epoch = epoch
        self._lease = lease
        self._checked = 0.0

    @classmethod
    def take(cls, store: Store, partition: str) -> _LeaseLock | None:
        last, lease = _newest(store, partition)
        if lease is not None and lease.expires > time.time():
            return None
        lease = _Lease(uuid.uuid4().hex, time.time() + LEASE_SECONDS)
        name = _epoch_name(partition, last + 1)
        if not store.create(name, to_json(dataclasses.asdict(lease))):
            return None
        return cls(store, partition, last + 1, lease)

    def check(self) -> None:
        # Nobody can take over before the lease ends, and it was not near its end.
        if time.time() < self._checked + LEASE_SECONDS / 12:
            return
        if not self._held():
            raise LockError(
                f"partition {self._partition or '(none)'}: another run took over its publishing "
                f"after this one had been silent for {LEASE_SECONDS:.0f} s; run again"
            )
        if self._lease.expires - time.time() < LEASE_SECONDS * 2 / 3:
            self._write(time.time() + LEASE_SECONDS)
        self._checked = time.time()

    def give_back(self) -> None:
        if self._held():
            self._write(0.0)

    def _held(self) -> bool:
        if _read_lease(self._store, self._partition, self._epoch + 1) is not None:
            return False
        own = _read_lease(self._store, self._partition, self._epoch)
        return own is not None and own.holder == self._lease.holder

    def _write(self, expires: float) -> None:
        self._lease = _Lease(self._lease.holder, expires)
        name = _epoch_name(self._partition, self._epoch)
        self._store.write_json(name, dataclasses.asdict(self._lease))


def _newest(store: Store, partition: str) -> tuple[int, _Lease | None]:
    """Return the highest epoch and its lease; 0 and None where there is none."""
    epoch = max(_listed_epochs(store, partition), default=0)
    lease = _read_lease(store, partition, epoch) if epoch else None
    while (following := _read_lease(store, partition, epoch + 1)) is not None:
        epoch, lease = epoch + 1, following
    return epoch, lease


def _listed_epochs(store: Store, partition: str) -> list[int]:
    names = store.sizes(f"{layout.LOCKS}/{layout.quoted(partition)}")
    return [int(name.removesuffix(".json")) for name in names]


def _read_lease(store: Store, partition: str, epoch: int) -> _Lease | None:
    value = store.read_json(_epoch_name(partition, epoch))
    return None if value is None else _Lease(**value)


def _epoch_name(partition: str, epoch: int) -> str:
    return f"{layout.LOCKS}/{layout.quoted(partition)}/{epoch:09d}.json"


class _Patience:
    """Waits for another run, up to a limit; says so once, when it takes a while."""

    def __init__(self, partition: str, seconds: float) -> None:
        self._name = f"partition {partition or '(none)'}"
        self._began = time.monotonic()
        self._seconds = seconds
        self._told = False

    def wait(self, seconds: float) -> None:
        waited = time.monotonic() - self._began
        if waited > self._seconds:
            raise LockError(
                f"{self._name}: another run keeps publishing it; run again when that one is done"
            )
        if waited > SILENT_SECONDS and not self._told:
            complain(f"{self._name}: another run publishes it; waiting up to {self._seconds:.0f} s")
            self._told = True
        time.sleep(seconds)
