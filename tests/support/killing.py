"""Runs a function in a process of its own that is killed before its n-th change of a file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from pipelines.annotate.publish import apply

# What changes a folder's entries; a part's bytes in between are nobody's until they are named.
CHANGES = ("replace", "rename", "link", "unlink", "remove", "rmdir")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.nights.stand_in"])


def run_and_kill(step: int, function: Callable[..., object], *arguments: Any) -> bool:
    """Return whether the process was killed, False where it ended before its step-th change.

    The kill is a SIGKILL: no handler, no finally, no buffer flushed.
    """
    process = _context.Process(target=_run, args=(step, function, arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}"
    return process.exitcode != 0


def start(function: Callable[..., object], *arguments: Any) -> multiprocessing.Process:
    """Start a function in a process of its own and return the process."""
    process = _context.Process(target=function, args=arguments)
    process.start()
    return process


def _run(step: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    changes = 0

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def call(*args: Any, **kwargs: Any) -> object:
            nonlocal changes
            changes += 1
            if changes == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    apply.exchange_folders = counted(apply.exchange_folders)
    function(*arguments)
