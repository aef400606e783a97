"""Images behind addresses, fetched many at a time, in limited time, size and memory.

An event loop on a thread of its own asks web servers; other stores are read through fsspec, on a
thread each. What is asked was compared with the allowed prefixes before, and so is every place
that a redirect leads to.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import math
import os
import random
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.annotate.fetch.addresses import DEFAULT_PORTS, AllowedPlaces, Place
from pipelines.annotate.fetch.limits import Buffer, Host, retry_after_seconds
from pipelines.storage.backends import open_url
from schemas.reasons import ModalityReason

if TYPE_CHECKING:
    import aiohttp

CONCURRENCY = 256
PER_HOST = 16

# For one request with its redirects, until the last byte; and without any answer.
_TIMEOUT_SECONDS = 30.0
_SILENT_SECONDS = 10.0
_PROBE_SECONDS = 5.0
_TRIES = 4
_FIRST_BACK_OFF_SECONDS = 0.5
_MOST_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16
_BUFFER_BYTES = 128 << 20
# What an image takes of the buffer while nobody knows how large it is.
_LIKELY_BYTES = 1 << 17

_BY_STATUS = {
    **dict.fromkeys((404, 410), ModalityReason.GONE),
    **dict.fromkeys((401, 403, 451), ModalityReason.REFUSED),
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), ModalityReason.BUSY),
}
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Fetched:
    """What became of an address.

    content: the image; None where it cannot be had, and then there is a reason: not_allowed
    (nothing was asked of the place), too_large, gone, refused, busy, fetch_timed_out, tls_failed,
    dns_failed, or fetch_failed for anything else.
    host: of the address, None where it is not allowed. try_later: the host fails again and
    again, and was perhaps not even asked.
    """

    content: bytes | None
    reason: ModalityReason | None
    host: str | None = None
    try_later: bool = False


class _FailedError(Exception):
    """A request without an image.

    of_host: whether it says something of the host, not of the image. again: whether to repeat
    it; after: in so many seconds, where the host said.
    """

    def __init__(
        self,
        reason: ModalityReason,
        *,
        of_host: bool = False,
        again: bool = False,
        after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.of_host = of_host
        self.again = again
        self.after = after


class _BrokenHostError(Exception):
    """The host fails again and again and is not asked."""


class _NoRoomError(Exception):
    """The buffer has no room for as many bytes as the image has."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class ImageFetcher:
    """Fetches images below the allowed prefixes; safe to use from many threads.

    prefixes: see AllowedPlaces. max_bytes: an image above it is too_large. concurrency,
    per_host: requests at a time, to all hosts and to each. timeout_seconds: for one request; an
    address is given up after twice that. buffer_bytes: of images that nobody has taken yet.
    Raises UsageError where a prefix cannot be one.
    """

    def __init__(
        self,
        prefixes: Iterable[str],
        max_bytes: int,
        *,
        concurrency: int = CONCURRENCY,
        per_host: int = PER_HOST,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> None:
        self._places = AllowedPlaces(prefixes)
        self._max_bytes = max_bytes
        self._concurrency = concurrency
        self._per_host = per_host
        self._timeout_seconds = timeout_seconds
        self._buffer = Buffer(max(buffer_bytes, max_bytes))
        self._hosts: dict[str, Host] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="fetch-images", daemon=True).start()

    def start(self, uri: str, *, probe: bool = False) -> Future[Fetched]:
        """Ask for an image; who takes its content calls `release`.

        probe: ask once, for some seconds, also where the host is known to fail.
        The future raises nothing, and nothing is logged.
        """
        place = self._places.find(uri)
        if place is None:
            not_allowed: Future[Fetched] = Future()
            not_allowed.set_result(Fetched(None, ModalityReason.NOT_ALLOWED))
            return not_allowed
        return asyncio.run_coroutine_threadsafe(self._fetch(place, probe), self._loop)

    def release(self, fetched: Fetched) -> None:
        """Free the room that a content has in the buffer."""
        if fetched.content is not None:
            self._loop.call_soon_threadsafe(self._buffer.give_back, len(fetched.content))

    def close(self) -> None:
        """Give up what is under way, close the connections, end the thread."""

        async def close() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._session is not None:
                await self._session.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _fetch(self, place: Place, probe: bool) -> Fetched:
        if (host := self._hosts.get(place.host)) is None:
            host = self._hosts[place.host] = Host(self._per_host)
        try:
            content = await self._try(place, host, probe)
        except _BrokenHostError:
            return Fetched(None, host.last_failure, place.host, try_later=True)
        except _FailedError as error:
            if error.of_host:
                host.failed(error.reason)
                return Fetched(None, error.reason, place.host, try_later=host.broken)
            host.answered()
            return Fetched(None, error.reason, place.host)
        except Exception:
            # What went wrong may name paths or credentials: only the reason leaves.
            return Fetched(None, ModalityReason.FETCH_FAILED, place.host)
        host.answered()
        return Fetched(content, None, place.host)

    async def _try(self, place: Place, host: Host, probe: bool) -> bytes:
        """Ask until there is an answer that lasts, waiting longer before each try."""
        size = _LIKELY_BYTES
        back_off = _FIRST_BACK_OFF_SECONDS
        give_up: float | None = None
        for left in reversed(range(_TRIES)):
            try:
                while True:
                    try:
                        return await self._request(place, host, size, probe)
                    except _NoRoomError as error:
                        size = min(error.size, self._max_bytes)
            except _FailedError as error:
                now = self._loop.time()
                give_up = now + self._timeout_seconds if give_up is None else give_up
                wait = back_off * random.uniform(0.5, 1.5) if error.after is None else error.after
                if not (error.again and left) or probe or now + wait > give_up:
                    raise
                if error.after is not None:
                    host.pause(error.after)
                await asyncio.sleep(wait)
                back_off *= 2
        raise AssertionError("the last try returns or raises")

    async def _request(self, place: Place, host: Host, size: int, probe: bool) -> bytes:
        """Ask once, when it is its turn and the buffer has room for `size` bytes."""
        await self._buffer.reserve(size)
        room = _Room(self._buffer, size)
        try:
            async with host.slots:
                await host.paused()
                if not host.may_be_asked(probe):
                    raise _BrokenHostError
                async with self._slots:
                    seconds = min(self._timeout_seconds, _PROBE_SECONDS if probe else math.inf)
                    if place.scheme in DEFAULT_PORTS:
                        content = await self._read_http(place, room, seconds)
                    else:
                        content = await self._read_store(place, seconds)
        except BaseException:
            room.settle(0)
            raise
        room.settle(len(content))
        return content

    async def _read_http(self, place: Place, room: _Room, seconds: float) -> bytes:
        import aiohttp
        from yarl import URL

        session = self._opened_session()
        ends = self._loop.time() + seconds
        for _ in range(_MOST_REDIRECTS + 1):
            timeout = aiohttp.ClientTimeout(
                total=max(ends - self._loop.time(), 1e-3),
                sock_connect=_SILENT_SECONDS,
                sock_read=_SILENT_SECONDS,
            )
            try:
                async with session.get(
                    # As it was compared with the prefixes, to the letter.
                    URL(place.url, encoded=True),
                    allow_redirects=False,
                    proxy=_proxy_of(place),
                    timeout=timeout,
                ) as response:
                    if response.status not in _REDIRECTS:
                        return await self._read_answer(response, room)
                    target = self._places.follow(place, response.headers.get("Location", ""))
                    if target is None:
                        raise _FailedError(ModalityReason.NOT_ALLOWED)
                    place = target
            except asyncio.TimeoutError as error:
                raise _FailedError(ModalityReason.FETCH_TIMED_OUT, of_host=True) from error
            except aiohttp.ClientConnectorDNSError as error:
                passing = error.os_error.errno == socket.EAI_AGAIN
                raise _FailedError(
                    ModalityReason.DNS_FAILED, of_host=True, again=passing
                ) from error
            except (aiohttp.ClientSSLError, ssl.SSLError) as error:
                raise _FailedError(ModalityReason.TLS_FAILED, of_host=True) from error
            except (aiohttp.ClientError, OSError) as error:
                raise _FailedError(ModalityReason.FETCH_FAILED, of_host=True, again=True) from error
        raise _FailedError(ModalityReason.FETCH_FAILED)

    async def _read_answer(self, response: aiohttp.ClientResponse, room: _Room) -> bytes:
        if response.status != 200:
            reason = _BY_STATUS.get(response.status, ModalityReason.FETCH_FAILED)
            after = retry_after_seconds(response.headers.get("Retry-After"))
            busy = reason == ModalityReason.BUSY
            raise _FailedError(reason, of_host=busy, again=busy, after=after)
        room.grow(self._checked(response.content_length or 0))
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            room.grow(self._checked(len(content)))
        return bytes(content)

    async def _read_store(self, place: Place, seconds: float) -> bytes:
        """Read on a thread that is left behind when the time is up: file systems have no limits."""
        answer: asyncio.Future[bytes | _FailedError] = self._loop.create_future()

        def settle(result: bytes | _FailedError) -> None:
            if not answer.done():
                answer.set_result(result)

        def read() -> None:
            self._loop.call_soon_threadsafe(settle, _read_range(place, self._max_bytes + 1))

        threading.Thread(target=read, name="fetch-image", daemon=True).start()
        try:
            result = await asyncio.wait_for(answer, seconds)
        except asyncio.TimeoutError as error:
            raise _FailedError(ModalityReason.FETCH_TIMED_OUT, of_host=True) from error
        if isinstance(result, _FailedError):
            raise result
        self._checked(len(result))
        return result

    def _checked(self, size: int) -> int:
        if size > self._max_bytes:
            raise _FailedError(ModalityReason.TOO_LARGE)
        return size

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, ssl=ssl.create_default_context(), ttl_dns_cache=300
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Not what is in ~/.netrc: no stranger's address may draw on it.
                trust_env=False,
                # Images are compressed already; what a server encodes all the same is decoded.
                headers={"User-Agent": "drf-pipelines", "Accept-Encoding": "identity"},
            )
        return self._session


class _Room:
    """What one image takes of the buffer."""

    def __init__(self, buffer: Buffer, size: int) -> None:
        self._buffer = buffer
        self._size = size

    def grow(self, size: int) -> None:
        """Make it `size` bytes, if it is less. Raises _NoRoomError."""
        if size > self._size:
            if not self._buffer.take(size - self._size):
                raise _NoRoomError(2 * size)
            self._size = size

    def settle(self, size: int) -> None:
        """Make it `size` bytes, whatever it was."""
        self._buffer.give_back(self._size - size)


@functools.cache
def shared_fetcher(
    prefixes: tuple[str, ...], max_bytes: int, concurrency: int, per_host: int
) -> ImageFetcher:
    """The process's fetcher: work units share its limits and what it knows of hosts."""
    fetcher = ImageFetcher(prefixes, max_bytes, concurrency=concurrency, per_host=per_host)
    atexit.register(fetcher.close)
    return fetcher


def _read_range(place: Place, end: int) -> bytes | _FailedError:
    """The first `end` bytes, in one request: without asking for the size first."""
    try:
        # A pipe or a device would wait, or read, for ever.
        if place.scheme == "file" and os.path.exists(place.url) and not os.path.isfile(place.url):
            return _FailedError(ModalityReason.FETCH_FAILED)
        fs, path = open_url(place.url)
        return bytes(fs.cat_file(path, start=0, end=end))
    except FileNotFoundError:
        return _FailedError(ModalityReason.GONE)
    except PermissionError:
        return _FailedError(ModalityReason.REFUSED)
    except Exception:
        return _FailedError(ModalityReason.FETCH_FAILED)


def _proxy_of(place: Place) -> str | None:
    """The proxy that the environment names for a place."""
    if urllib.request.proxy_bypass(place.authority):
        return None
    return urllib.request.getproxies().get(place.scheme)
