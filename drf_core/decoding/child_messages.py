"""What goes between a process and its children: a JSON header and buffers, never a pickle.

What a child sends was made from a stranger's bytes, perhaps by code that those bytes took over: it
is read as numbers and text, and runs nothing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

Buffer = bytes | bytearray | memoryview

# Sizes of the header and number of buffers; then each buffer's size.
_START = struct.Struct("<II")
_MOST_BUFFERS = 1 << 16
_MOST_HEADER = 1 << 26
# As many as the system takes in one call.
_AT_ONCE = 512
_SOCKET_BYTES = 1 << 20
# A message's small parts come in one call: each call gives the interpreter's lock away, and where
# other threads compute, waiting for it costs more than the call.
_READ_AHEAD = 1 << 14


class LinkClosedError(Exception):
    """The other end is gone."""


class Link:
    """One end of a stream socket; not for several threads at once.

    most_bytes: that a message's buffers may have together.
    """

    def __init__(self, end: socket.socket, most_bytes: int = 1 << 31) -> None:
        self._socket = end
        self._most_bytes = most_bytes
        self._ahead = memoryview(b"")
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)

    def send(self, header: dict[str, Any], buffers: Sequence[Buffer] = ()) -> None:
        """Send a message. Raises LinkClosedError."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        text = json.dumps(header).encode()
        sizes = struct.pack(f"<{len(views)}Q", *(len(view) for view in views))
        waiting = [memoryview(_START.pack(len(text), len(views)) + sizes + text), *views]
        waiting = [view for view in waiting if len(view)]
        first = 0
        try:
            while first < len(waiting):
                try:
                    sent = self._socket.sendmsg(waiting[first : first + _AT_ONCE])
                except BlockingIOError:
                    self._wait(select.POLLOUT, None)
                    continue
                while first < len(waiting) and sent >= len(waiting[first]):
                    sent -= len(waiting[first])
                    first += 1
                if sent:
                    waiting[first] = waiting[first][sent:]
        except OSError as error:
            raise LinkClosedError from error

    def receive(
        self,
        seconds: float | None = None,
        allocate: Callable[[int], Buffer] = bytearray,
    ) -> tuple[dict[str, Any], list[Any]]:
        """Return the next message. seconds: how long it may take, None for ever.

        Raises LinkClosedError, and TimeoutError.
        """
        until = None if seconds is None else time.monotonic() + seconds
        length, count = _START.unpack(self._read(bytearray(_START.size), until))
        if count > _MOST_BUFFERS or length > _MOST_HEADER:
            raise LinkClosedError
        sizes = struct.unpack(f"<{count}Q", self._read(bytearray(8 * count), until))
        if sum(sizes) > self._most_bytes:
            raise LinkClosedError
        try:
            header = json.loads(bytes(self._read(bytearray(length), until)))
        except ValueError as error:
            raise LinkClosedError from error
        return header, [self._read(allocate(size), until) for size in sizes]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _read(self, into: Buffer, until: float | None) -> Buffer:
        view = memoryview(into)
        got = min(len(self._ahead), len(view))
        view[:got], self._ahead = self._ahead[:got], self._ahead[got:]
        try:
            while got < len(view):
                try:
                    if len(view) - got >= _READ_AHEAD:
                        count = self._socket.recv_into(view[got:])
                    else:
                        found = memoryview(self._socket.recv(_READ_AHEAD))
                        count = min(len(found), len(view) - got)
                        view[got : got + count], self._ahead = found[:count], found[count:]
                except BlockingIOError:
                    self._wait(select.POLLIN, until)
                    continue
                if count == 0:
                    raise LinkClosedError
                got += count
        except TimeoutError:
            raise
        except OSError as error:
            raise LinkClosedError from error
        return into

    def _wait(self, event: int, until: float | None) -> None:
        """Wait for the socket; raises TimeoutError."""
        left = None if until is None else 1000 * (until - time.monotonic())
        poll = select.poll()
        poll.register(self._socket, event)
        if (left is not None and left <= 0) or not poll.poll(left):
            raise TimeoutError


def link_of(descriptor: int) -> Link:
    """The link that a child was started with."""
    os.set_inheritable(descriptor, False)
    return Link(socket.socket(fileno=descriptor))
