"""The heap of a worker's process, kept from growing over a night (tests/benchmarks/SPEED.md).

Only glibc has these settings, and needs them; elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import time

# Of malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 1 << 20
# A trim takes 3 to 8 ms of a processor.
_TRIM_SECONDS = 5.0
_trimmed = 0.0


def share_one_heap() -> None:
    """Have all threads allocate from one heap: each of eight a core keeps what it once needed."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def keep_large_buffers_out() -> None:
    """Have large buffers come from the system, and go back there.

    A heap grows for them wherever none of its gaps is large enough. Not for torch, which asks for
    one at each step.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim_heap(seconds: float = _TRIM_SECONDS) -> None:
    """Give the heap's gaps back to the system, if this was not done so many seconds ago.

    Not for torch, which would ask for them again at once.
    """
    global _trimmed
    if time.monotonic() - _trimmed < seconds:
        return
    _trimmed = time.monotonic()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
