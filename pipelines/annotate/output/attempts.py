"""Attempts at shards, each on record while it runs, so that a killed one is known of."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.annotate.output import layout
from pipelines.storage.files import OutputError, Store, to_json

# An attempt that says nothing for this long is taken for dead, wherever it ran.
_SILENCE_SECONDS = 120.0
_TOUCH_SECONDS = 2.0

# What killed an attempt longer ago says nothing of its shard: machines and people change.
_REMEMBERED_SECONDS = 86_400.0

_PROCESS_STARTED = time.time()


@dataclass(frozen=True)
class AttemptState:
    """What an attempt's record says: rows and dead letters done so far, not yet committed.

    suspects: where it was interrupted, the source rows that were in work for long, and what of
    them: text or image.
    """

    key: str
    attempt: str
    run_id: str
    rows: int
    dead_letters: int
    host: str
    process: int
    updated: float
    suspects: tuple[tuple[int, str], ...] = ()

    def alive(self) -> bool:
        """Whether it may still be at work."""
        if self.suspects or time.time() - self.updated > _SILENCE_SECONDS:
            return False
        if self.host != socket.gethostname():
            return True
        # A container that starts again has the host name and process id of the killed one.
        if self.process == os.getpid():
            return self.updated >= _PROCESS_STARTED
        return _process_runs(self.process)


class Attempt:
    """One try at a shard, on record until end(), whatever happens. Not for several threads at once.

    began: when, in seconds since 1970.
    """

    def __init__(self, store: Store, key: str, run_id: str) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.began = time.time()
        self._store = store
        host, process = socket.gethostname(), os.getpid()
        self._name = layout.attempt_record(key, self.id)
        self._state = AttemptState(key, self.id, run_id, 0, 0, host, process, self.began)
        self._suspects: set[tuple[int, str]] = set()
        self._write()

    def touch(self, rows: int, dead_letters: int = 0) -> None:
        """Put on record how many rows of the shard are done; cheap to call often."""
        if time.monotonic() - self._written >= _TOUCH_SECONDS:
            self._write(rows=rows, dead_letters=dead_letters)

    def suspect(self, row: int, kind: str) -> None:
        """Name a source row, its text or image, that an interrupt met in work for long."""
        self._suspects.add((row, kind))

    def _write(self, **done: Any) -> None:
        self._written = time.monotonic()
        suspects = tuple(sorted(self._suspects))
        self._state = dataclasses.replace(
            self._state, updated=time.time(), suspects=suspects, **done
        )
        # It only tells of the work, and the work does not end for it.
        with contextlib.suppress(OutputError):
            data = to_json(dataclasses.asdict(self._state))
            self._store.write(self._name, data, durable=False)

    def end(self) -> None:
        """Take it off the record: it ended in an orderly way, with a commit or without.

        One that has suspects stays, so that they are known when they are met again.
        """
        if self._suspects:
            self._write()
            return
        with contextlib.suppress(OutputError):
            self._store.remove(self._name)


def list_attempts(store: Store, keys: Iterable[str] | None = None) -> list[AttemptState]:
    """Return the attempts on record, of all shards or of those with the given keys."""
    wanted = None if keys is None else set(keys)
    states = []
    for name in store.sizes(layout.ATTEMPTS):
        if wanted is not None and name.partition(".")[0] not in wanted:
            continue
        value = store.read_json(f"{layout.ATTEMPTS}/{name}")
        # It may have ended meanwhile, or be another version's.
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            suspects = tuple((row, kind) for row, kind in value.pop("suspects", ()))
            states.append(AttemptState(**value, suspects=suspects))
    return states


def past_attempts(
    store: Store, keys: Iterable[str]
) -> tuple[Counter[str], Counter[tuple[str, int, str]]]:
    """Return what attempts at shards of the last 24 hours came to: how often each.

    That is, by key, those that died without a word: their process was killed, by what the shard
    holds or by whoever stopped the run. And the suspects of those that were interrupted: key,
    source row, and text or image.
    """
    oldest = time.time() - _REMEMBERED_SECONDS
    ended = [s for s in list_attempts(store, keys) if s.updated >= oldest and not s.alive()]
    return (
        Counter(state.key for state in ended if not state.suspects),
        Counter((state.key, *suspect) for state in ended for suspect in state.suspects),
    )


def forget_attempts(store: Store, keys: Iterable[str]) -> None:
    """Take the attempts that died off the record, so that the shards are tried anew."""
    for state in list_attempts(store, keys):
        if not state.alive():
            store.remove(layout.attempt_record(state.key, state.attempt))


def _process_runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
