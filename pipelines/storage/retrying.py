"""Trying again what a store refused for the moment.

s3fs and gcsfs try again themselves, with back-off; here is what they let through all the
same: an overload that lasts longer, an answer that breaks off, a time-out.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.storage.backends import BACKENDS

_Result = TypeVar("_Result")

TRIES = 4
FIRST_SECONDS = 1.0

_PASSING_NUMBERS = {errno.EAGAIN, errno.ETIMEDOUT}

# By name, because the packages that define them need not be installed.
_PASSING_NAMES = {
    "ConnectionError",
    "TimeoutError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "IncompleteReadError",
    "ResponseParserError",
    "ChecksumError",
}


def retry(function: Callable[[], _Result]) -> _Result:
    """Return what a function returns, called up to four times while its errors may pass.

    Between calls it waits 1, 2 and 4 seconds, each shortened by up to half at random, so that
    many workers that a store turned away do not come back all at once.
    """
    for turn in range(TRIES):
        try:
            return function()
        except Exception as error:
            if turn == TRIES - 1 or not may_pass(error):
                raise
        time.sleep(FIRST_SECONDS * 2**turn * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")


def may_pass(error: Exception) -> bool:
    """Whether a store may answer otherwise in a moment; not where a file or right is lacking."""
    if any(kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_NUMBERS:
        return True
    return any(backend.may_pass(error) for backend in BACKENDS)


def was_there(error: OSError) -> bool:
    """Whether a file was not created because there is one."""
    return isinstance(error, FileExistsError) or any(b.was_there(error) for b in BACKENDS)
