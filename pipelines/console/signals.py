"""Signals that ask a command to end wait for the end of a step that shall not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_ASKS_TO_END = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off SIGINT and SIGTERM until the block ends; it should take seconds at most.

    On other threads than the main one it does nothing: no signal is handled there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda caught, frame: came.append(caught))
        for number in _ASKS_TO_END
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    for caught in came:
        signal.raise_signal(caught)
