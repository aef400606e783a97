"""A server, and fetchers that are closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipelines.annotate.fetch import fetcher as fetching
from pipelines.annotate.fetch.fetcher import ImageFetcher
from tests.support.services.image_server import ImageServer, image_server


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and no waiting for what a local server will do at once."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "_FIRST_BACK_OFF_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


@pytest.fixture
def fetcher_of() -> Iterator[Callable[..., ImageFetcher]]:
    """Makes fetchers of prefixes: fetcher_of("https://…", timeout_seconds=1)."""
    made: list[ImageFetcher] = []

    def make(*prefixes: str, max_bytes: int = 100_000, **limits: float) -> ImageFetcher:
        made.append(ImageFetcher(prefixes, max_bytes, **{"timeout_seconds": 5.0, **limits}))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()
