"""How far a run is, told from its commit and attempt records, whatever runner does the work."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from tqdm import tqdm

from pipelines.annotate.job import Plan
from pipelines.annotate.output.attempts import list_attempts
from pipelines.annotate.output.commit_records import committed_keys, find_commit
from pipelines.storage.files import Store, open_store
from pipelines.threads import beside

_LOOK_SECONDS = 1.0
_LOG_SECONDS = 30.0
_FIRST_LINE = "annotating {n:,}/{total:,} posts ({percentage:.0f}%){postfix}"
_LINE = (
    "annotating {n:,}/{total:,} posts ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"
)


@dataclass(frozen=True)
class Standing:
    """Posts done and dead letters so far, of `posts` to compute."""

    posts: int
    done: int
    dead_letters: int


class ProgressReader:
    """Reads how far the shards of a plan are; done posts never become fewer."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._rows = {shard.key: shard.rows for unit in plan.units for shard in unit.shards}
        # (rows, dead letters) by key: of committed shards, and of those being worked on.
        self._committed: dict[str, tuple[int, int]] = {}
        self._attempted: dict[str, tuple[int, int]] = {}

    def read(self) -> Standing:
        """Look at the output; raises OutputError where it cannot be read."""
        # A commit record goes when its partition is published: what was seen once, counts.
        for key in (committed_keys(self._store) & self._rows.keys()) - self._committed.keys():
            if (record := find_commit(self._store, key)) is not None:
                self._committed[key] = (record.entry.rows, record.entry.dead_letters)
        for attempt in list_attempts(self._store, self._rows.keys() - self._committed.keys()):
            seen = (attempt.rows, attempt.dead_letters)
            self._attempted[attempt.key] = max(seen, self._attempted.get(attempt.key, seen))
        by_key = {**self._attempted, **self._committed}
        return Standing(
            posts=sum(self._rows.values()),
            done=sum(rows for rows, _ in by_key.values()),
            dead_letters=sum(letters for _, letters in by_key.values()),
        )


@contextlib.contextmanager
def show_progress(plan: Plan, stream: TextIO | None = None) -> Iterator[None]:
    """Show, while the block runs, what it does: posts done, posts/s, time left, dead letters.

    A live line on a terminal, a log line every half minute elsewhere.
    """
    out = stream or sys.stderr
    reader = ProgressReader(open_store(plan.options.output), plan)
    with beside("progress", partial(_show, reader, out)):
        yield


def _show(reader: ProgressReader, out: TextIO, ended: threading.Event) -> None:
    live = out.isatty()
    # Posts that were done when the first ones were seen, and when: loading is not counted.
    first: tuple[int, float] | None = None
    logged = time.monotonic()
    wait = _LOOK_SECONDS
    while not ended.wait(wait):
        began = time.monotonic()
        # A look that fails is the job's business, which meets the same fault itself.
        with contextlib.suppress(Exception):
            standing = reader.read()
            if first is None and standing.done:
                first = (standing.done, began)
            initial, since = first or (0, began)
            line = _phase(standing) or describe(standing, initial, began - since)
            if live:
                _rewrite(out, line)
            elif began - logged >= _LOG_SECONDS:
                logged = began
                print(line, file=out, flush=True)
        # Looking shall cost no more than a tenth of the time, however large the output.
        wait = max(_LOOK_SECONDS, 10 * (time.monotonic() - began))
    if live:
        _rewrite(out, "")
        print("\r", end="", file=out, flush=True)


def _rewrite(out: TextIO, line: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    print(f"\r{line[:width]:<{width}}", end="", file=out, flush=True)


def show_phase(phase: str) -> None:
    """Show what a run does before it computes; on a terminal only, where progress follows."""
    if sys.stderr.isatty():
        _rewrite(sys.stderr, phase)


def _phase(standing: Standing) -> str | None:
    """What the run does while no post is annotated, None while some are."""
    if not standing.done:
        return f"loading the model, for {standing.posts:,} posts"
    if standing.done >= standing.posts:
        return f"publishing {standing.posts:,} posts, {standing.dead_letters:,} dead letters"
    return None


def describe(standing: Standing, initial: int, seconds: float) -> str:
    """One line: posts done of all, posts/s, time left, dead letters.

    initial: posts that were done already, seconds ago.
    """
    line: str = tqdm.format_meter(
        standing.done,
        standing.posts,
        seconds,
        initial=initial,
        unit=" posts",
        postfix=f"{standing.dead_letters:,} dead letters",
        bar_format=_LINE if standing.done > initial else _FIRST_LINE,
    )
    return line
