"""Threads: work beside a block that waits, and an iterator run ahead of its consumer."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar


@contextlib.contextmanager
def beside(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` while the block runs, and wait for its end, which the event asks for.

    name: of the thread.
    """
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


Item = TypeVar("Item")


def look_ahead(items: Iterable[Item], cost: Callable[[Item], float]) -> Generator[Item, None, None]:
    """Yield `items` in order while a thread already produces the next ones.

    cost: of an item; the thread rests while those that wait cost 1 or more together. An
    exception of the producer is raised where its item would have come. A consumer that
    stops early (close(), or an exception) stops the producer after its current item.
    """
    waiting: deque[Item] = deque()
    changed = threading.Condition()
    ended = stopped = False
    raised: list[BaseException] = []
    held = 0.0

    def may_go_on() -> bool:
        return held < 1 or stopped

    def produce() -> None:
        nonlocal ended, held
        try:
            for item in items:
                with changed:
                    changed.wait_for(may_go_on)
                    if stopped:
                        return
                    waiting.append(item)
                    held += cost(item)
                    changed.notify_all()
        except BaseException as error:
            raised.append(error)
        finally:
            with changed:
                ended = True
                changed.notify_all()

    thread = threading.Thread(target=produce, name="look-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or ended)
                if not waiting:
                    break
                item = waiting.popleft()
                held -= cost(item)
                changed.notify_all()
            yield item
        if raised:
            raise raised[0]
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        thread.join()
