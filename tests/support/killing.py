"""Runs a function in a process of its own that gets a signal before its n-th change of a file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from pipelines.annotate.publish import apply

# What changes a folder's entries; a part's bytes in between are nobody's until they are named.
CHANGES = ("replace", "rename", "link", "unlink", "remove", "rmdir")

_INTERRUPTED = 130
_SECONDS_TO_END = 5.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.nights.stand_in"])


def run_and_kill(
    step: int, function: Callable[..., object], *arguments: Any, by: int = signal.SIGKILL
) -> bool:
    """Return whether the process was ended so, False where it ended before its step-th change.

    By a SIGKILL no handler runs, no finally, no buffer is flushed; a SIGTERM comes as the command
    line takes it, and the process has to end within seconds.
    """
    process = _context.Process(target=_run, args=(step, function, arguments, by))
    process.start()
    process.join()
    assert process.exitcode in (0, _INTERRUPTED, -signal.SIGKILL), f"exit code {process.exitcode}"
    return process.exitcode != 0


def start(function: Callable[..., object], *arguments: Any) -> multiprocessing.Process:
    """Start a function in a process of its own and return the process."""
    process = _context.Process(target=function, args=arguments)
    process.start()
    return process


def _run(step: int, function: Callable[..., object], arguments: tuple[Any, ...], by: int) -> None:
    changes, asked = 0, 0.0
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def call(*args: Any, **kwargs: Any) -> object:
            nonlocal changes, asked
            changes += 1
            if changes == step:
                asked = time.monotonic()
                os.kill(os.getpid(), by)
            return change(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    apply.exchange_folders = counted(apply.exchange_folders)
    try:
        function(*arguments)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED if time.monotonic() - asked < _SECONDS_TO_END else "ended late")
