"""Posts that wait for their images: each address is asked once, each post served as they arrive."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipelines.annotate.fetch.fetcher import Fetched, ImageFetcher

Post = TypeVar("Post")

# Images that are kept for other posts with the same address.
_KEPT_BYTES = 64 << 20

# Whoever waits for an answer looks so often whether it is still wanted.
_LOOK_SECONDS = 0.5


class ArrivalsClosedError(Exception):
    """Nobody wants what was waited for any more."""


class Arrivals(Generic[Post]):
    """The addresses of one work unit or bundle; for one thread, but for `take_counts`, `close`."""

    def __init__(self, fetcher: ImageFetcher) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counting = threading.Lock()
        self._fetcher = fetcher
        self._came: queue.SimpleQueue[tuple[str, Fetched]] = queue.SimpleQueue()
        self._waiting: dict[str, list[Post]] = {}
        self._ready: list[tuple[Post, Fetched]] = []
        self._known: OrderedDict[str, Fetched] = OrderedDict()
        self._known_bytes = 0
        # By host that fails: the posts of each address, for the end.
        self._later: dict[str | None, dict[str, list[Post]]] = {}
        self._closed = False

    def close(self) -> None:
        """Take nothing more: what is on its way leaves the fetcher's buffer as it comes.

        Who waits for it has ArrivalsClosedError raised.
        """
        self._closed = True
        self._drop()

    def __len__(self) -> int:
        """How many addresses are on their way."""
        return len(self._waiting)

    def add(self, uri: str, post: Post) -> None:
        """Ask for a post's image, unless its address was asked for already."""
        if uri in self._waiting:
            self._waiting[uri].append(post)
        elif (known := self._known.get(uri)) is not None:
            self._ready.append((post, known))
        else:
            self._start(uri, [post])

    def take(self, *, wait: bool = False) -> list[tuple[Post, Fetched]]:
        """Return posts and what came for them; where `wait`, once there is something.

        Posts of a host that fails again and again are left for `rest`.
        """
        posts, self._ready = self._ready, []
        while self._waiting:
            try:
                uri, fetched = self._next(wait and not posts)
            except queue.Empty:
                break
            if fetched.try_later:
                of_host = self._later.setdefault(fetched.host, {})
                of_host.setdefault(uri, []).extend(self._waiting.pop(uri))
            else:
                posts += self._settle(uri, fetched)
        return posts

    def rest(self) -> Iterator[list[tuple[Post, Fetched]]]:
        """Yield all other posts. Hosts that failed are tried again at the end.

        Each with one address; only where that answers, with all others.
        """
        while self._waiting or self._ready:
            yield self.take(wait=True)
        later, self._later = self._later, {}
        for addresses in later.values():
            uri = next(iter(addresses))
            self._start(uri, addresses.pop(uri), probe=True)
        while self._waiting:
            uri, fetched = self._next(True)
            posts = self._settle(uri, fetched)
            # Empty but for the first answer of a host.
            for other, of_other in later.pop(fetched.host, {}).items():
                if fetched.try_later:
                    self._waiting[other] = of_other
                    posts += self._settle(other, fetched)
                else:
                    self._start(other, of_other)
            yield posts

    def take_counts(self) -> tuple[tuple[str, str, int], ...]:
        """Host, what became of its addresses (fetched, or the reason), and of how many.

        Of those since the last call.
        """
        with self._counting:
            counts, self._counts = self._counts, Counter()
        return tuple((host, what, number) for (host, what), number in sorted(counts.items()))

    def _next(self, wait: bool) -> tuple[str, Fetched]:
        while True:
            try:
                return self._came.get(block=wait, timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._closed:
                    raise ArrivalsClosedError from None
                if not wait:
                    raise

    def _start(self, uri: str, posts: list[Post], *, probe: bool = False) -> None:
        self._waiting[uri] = posts

        def came(done: Future[Fetched]) -> None:
            self._came.put((uri, done.result()))
            if self._closed:
                self._drop()

        self._fetcher.start(uri, probe=probe).add_done_callback(came)

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._fetcher.release(self._came.get_nowait()[1])

    def _settle(self, uri: str, fetched: Fetched) -> list[tuple[Post, Fetched]]:
        self._fetcher.release(fetched)
        if fetched.host is not None:
            with self._counting:
                self._counts[fetched.host, str(fetched.reason or "fetched")] += 1
        self._known[uri] = fetched
        self._known_bytes += len(fetched.content or b"")
        while self._known_bytes > _KEPT_BYTES:
            _, oldest = self._known.popitem(last=False)
            self._known_bytes -= len(oldest.content or b"")
        return [(post, fetched) for post in self._waiting.pop(uri)]
