"""What bounds fetching: how a host answers, and how many bytes may wait. For one event loop."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections import deque

from schemas.reasons import ModalityReason

# So many addresses in a row that a host fails, and it rests; then it is asked for one, which says
# whether it is back.
MOST_FAILURES = 8
_FIRST_REST_SECONDS = 30.0
_LONGEST_REST_SECONDS = 480.0


class Host:
    """A host's slots, its failures in a row, and the pause that it asked for.

    slots: one for each request that it may have at a time. last_failure: its reason.
    """

    def __init__(self, limit: int) -> None:
        self.slots = asyncio.Semaphore(limit)
        self.last_failure = ModalityReason.FETCH_FAILED
        self._failures = 0
        self._rest_seconds = _FIRST_REST_SECONDS
        self._rests_until = 0.0
        self._paused_until = 0.0

    @property
    def broken(self) -> bool:
        """Whether it fails again and again."""
        return self._failures >= MOST_FAILURES

    def may_be_asked(self, probe: bool = False) -> bool:
        """Whether to ask it now. When a rest is over, one may ask; a probe may at any time."""
        if not self.broken:
            return True
        if not probe and time.monotonic() < self._rests_until:
            return False
        self._rest()
        return True

    def answered(self) -> None:
        """Note that it is there, whatever it said of the address."""
        self._failures = 0
        self._rest_seconds = _FIRST_REST_SECONDS

    def failed(self, reason: ModalityReason) -> None:
        """Note that an address was given up for what is the host's fault."""
        self.last_failure = reason
        self._failures += 1
        if self._failures == MOST_FAILURES:
            self._rest()

    def pause(self, seconds: float) -> None:
        """Note that it wants no request for so long."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def paused(self) -> None:
        """Wait until the pause that it asked for is over."""
        while (left := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _rest(self) -> None:
        self._rests_until = time.monotonic() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, _LONGEST_REST_SECONDS)


class Buffer:
    """Room for bytes that were fetched, or soon will be, and that nobody has taken yet."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> None:
        """Take room for `size` bytes as soon as there is as much, first come, first served."""
        if self._waiting or not self.take(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            await turn

    def take(self, size: int) -> bool:
        """Take room for `size` bytes now, if there is as much; an empty buffer has it always."""
        if self._held and self._held + size > self._limit:
            return False
        self._held += size
        return True

    def give_back(self, size: int) -> None:
        """Free room; a negative size takes some, although there may be none."""
        self._held -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self.take(wanted):
                    return
                turn.set_result(None)
            self._waiting.popleft()


def retry_after_seconds(header: str | None) -> float | None:
    """Return what a Retry-After header says, as seconds from now; None where it says nothing."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
