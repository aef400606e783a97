"""The child's side: one task after the other, within its memory, until its parent is gone.

Started by `children.Child`, which see. A task is a function of a module that the parent names; it
is called with the message and answers over the link.
"""

from __future__ import annotations

import importlib
import mmap
import os
import resource
import signal
import sys
from typing import Any

from drf_core.decoding.child_messages import Link, LinkClosedError, link_of


def main(descriptor: int, modules: str) -> None:
    """Serve the link with this descriptor. modules: to import before the first task."""
    # Whoever interrupts the job talks to the parent, which ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    link = link_of(descriptor)
    for name in filter(None, modules.split(",")):
        importlib.import_module(name)
    try:
        link.send({"ready": True})
        start = _address_space()
        while True:
            if _serve(link, start):
                start = _address_space()
    except LinkClosedError:
        os._exit(0)


def _serve(link: Link, start: int) -> bool:
    """Do one task; return whether it was one that stays: it made ready for others."""
    message, buffers = link.receive()
    limit = start + message["memory"]
    _limit(limit, message["seconds"])
    module, _, name = message["task"].partition(":")
    try:
        getattr(importlib.import_module(module), name)(message, buffers, link)
    except LinkClosedError:
        raise
    except MemoryError as error:
        del buffers
        # What a library says of its allocations is nobody's news.
        what = str(error) if type(error) is MemoryError else ""
        link.send({"error": "memory", "granted": granted(limit), "what": what})
    except BaseException as error:
        # A Rust library's panic is no Exception; whatever it is, it concerns this task alone.
        link.send(described(error))
    return bool(message.get("stays"))


def described(error: BaseException) -> dict[str, Any]:
    """An exception as a message. Its text stays within the machine: it may quote the input."""
    first = str(error).strip().splitlines()
    return {
        "error": "raised",
        "type": type(error).__name__,
        "text": first[0][:200] if first else "",
        "number": getattr(error, "errno", None),
    }


def _limit(address_space: int, seconds: float) -> None:
    """Bound the memory, and the processor time in case that the parent dies meanwhile."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = address_space if most == resource.RLIM_INFINITY else min(address_space, most)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, most))
    signal.setitimer(signal.ITIMER_PROF, 3 * seconds + 60)


def granted(limit: int | None = None) -> bool:
    """Whether the system gives a process as much memory as its limit says.

    limit: that it should have, None for the one that holds. So what ran into it was too large
    itself; else it is the machine that has not enough.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_AS)
    if limit is not None and resource.RLIM_INFINITY != most < limit:
        return False
    left = soft - _address_space() - (16 << 20)
    if soft == resource.RLIM_INFINITY or left <= 0:
        return True
    try:
        mmap.mmap(-1, left, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError):
        return False
    return True


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        # Where the system does not say, and does not hold the limit either.
        return 1 << 30


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
