"""Posts and their images: one request per address, in the order of arrival, none left out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pipelines.annotate.fetch import arrivals as arriving
from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import Fetched, ImageFetcher
from pipelines.annotate.fetch.limits import MOST_FAILURES
from tests.support.services.image_server import IMAGE, ImageServer, image_server

Make = Callable[..., ImageFetcher]


def all_of(arrivals: Arrivals[int]) -> dict[int, Fetched]:
    """What came for each post; none twice."""
    came = [one for posts in arrivals.rest() for one in posts]
    assert len(dict(came)) == len(came)
    return dict(came)


def test_thirty_retweets_of_one_picture_are_one_request(fetcher_of: Make, server: ImageServer):
    arrivals: Arrivals[int] = Arrivals(fetcher_of(server.url))
    for post in range(15):
        arrivals.add(f"{server.url}/a.jpg?wait=0.2", post)
    came = dict(arrivals.take(wait=True))
    for post in range(15, 30):
        arrivals.add(f"{server.url}/a.jpg?wait=0.2", post)
    came.update(all_of(arrivals))
    assert sorted(came) == list(range(30))
    assert {fetched.content for fetched in came.values()} == {IMAGE}
    assert len(server.asked) == 1
    assert arrivals.take_counts() == ((server.url, "fetched", 1),)
    assert arrivals.take_counts() == ()


def test_what_is_kept_for_retweets_is_bounded(
    fetcher_of: Make, server: ImageServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(arriving, "_KEPT_BYTES", 2 * len(IMAGE))
    arrivals: Arrivals[int] = Arrivals(fetcher_of(server.url))
    for post, name in enumerate("abcdc" + "a"):
        arrivals.add(f"{server.url}/{name}.jpg", post)
        assert len(all_of(arrivals)) == 1
    assert len(server.asked) == 5


def test_a_post_does_not_wait_for_those_before_it(fetcher_of: Make, server: ImageServer):
    arrivals: Arrivals[str] = Arrivals(fetcher_of(server.url))
    arrivals.add(f"{server.url}/a.jpg?wait=2", "slow")
    arrivals.add(f"{server.url}/b.jpg", "fast")
    started = time.monotonic()
    assert [post for post, _ in arrivals.take(wait=True)] == ["fast"]
    assert time.monotonic() - started < 1
    assert len(arrivals) == 1


def test_posts_of_a_host_that_comes_back_have_their_images_at_the_end(
    fetcher_of: Make, server: ImageServer
):
    posts = 3 * MOST_FAILURES
    server.speaks.clear()
    arrivals: Arrivals[int] = Arrivals(fetcher_of(server.url, timeout_seconds=2))
    for post in range(posts):
        arrivals.add(f"{server.url}/{post}.jpg", post)
    early = []
    while len(arrivals):
        early += arrivals.take(wait=True)
    server.speaks.set()
    came = all_of(arrivals)
    # Those that were asked before it counted as broken have failed for good.
    assert len(early) < MOST_FAILURES
    assert len(came) == posts - len(early)
    assert {fetched.content for fetched in came.values()} == {IMAGE}


def test_a_host_that_stays_silent_is_asked_for_a_few_images_not_for_all(fetcher_of: Make):
    with image_server() as silent, image_server() as well:
        silent.speaks.clear()
        fetcher = fetcher_of(silent.url, well.url, timeout_seconds=2, per_host=16)
        arrivals: Arrivals[int] = Arrivals(fetcher)
        for post in range(120):
            arrivals.add(f"{(well if post % 3 else silent).url}/{post}.jpg", post)
        came = all_of(arrivals)
        # As many as it may have at once, those that follow the first failures, and the probe.
        assert len(silent.asked) <= 16 + MOST_FAILURES
    timed_out = [post for post, fetched in came.items() if fetched.reason == "fetch_timed_out"]
    assert sorted(timed_out) == list(range(0, 120, 3))
    counts = {(silent.url, "fetch_timed_out", 40), (well.url, "fetched", 80)}
    assert set(arrivals.take_counts()) == counts


def test_what_comes_after_the_end_leaves_the_buffer(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url, max_bytes=len(IMAGE), buffer_bytes=2 * len(IMAGE))
    for _ in range(3):
        given_up: Arrivals[int] = Arrivals(fetcher)
        for post in range(10):
            given_up.add(f"{server.url}/{post}.jpg?wait=0.02", post)
        given_up.close()
    arrivals: Arrivals[int] = Arrivals(fetcher)
    arrivals.add(f"{server.url}/a.jpg", 0)
    assert all_of(arrivals)[0].content == IMAGE
