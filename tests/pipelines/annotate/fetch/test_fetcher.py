"""Fetching: many at a time, in limited time, size and memory, with a reason and no traceback."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.annotate.fetch import fetcher as fetching
from pipelines.annotate.fetch.fetcher import ImageFetcher
from pipelines.annotate.fetch.limits import MOST_FAILURES, retry_after_seconds
from tests.support.services.image_server import IMAGE, ImageServer, fetch, image_server

Make = Callable[..., ImageFetcher]


def test_images_are_fetched_many_at_a_time_but_not_too_many_of_one_host(fetcher_of: Make):
    with image_server() as one, image_server() as other:
        fetcher = fetcher_of(one.url, other.url, per_host=16, timeout_seconds=30)
        for server in (one, other):
            server.speaks.clear()
        asked = [fetcher.start(f"{s.url}/{n}.jpg") for n in range(32) for s in (one, other)]
        wait_until(lambda: one.at_once == other.at_once == 16)
        time.sleep(0.2)
        for server in (one, other):
            server.speaks.set()
        assert all(future.result().content == IMAGE for future in asked)
        assert one.most_at_once == other.most_at_once == 16


def test_requests_to_all_hosts_together_are_limited(fetcher_of: Make):
    with image_server() as one, image_server() as other:
        fetcher = fetcher_of(one.url, other.url, concurrency=3, timeout_seconds=30)
        for server in (one, other):
            server.speaks.clear()
        asked = [fetcher.start(f"{s.url}/{n}.jpg") for n in range(8) for s in (one, other)]
        wait_until(lambda: one.at_once + other.at_once == 3)
        time.sleep(0.2)
        assert one.at_once + other.at_once == 3
        for server in (one, other):
            server.speaks.set()
        assert all(future.result().content == IMAGE for future in asked)


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits, on a busy machine for some time."""
    ends = time.monotonic() + 20
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    assert holds()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "gone"),
        (410, "gone"),
        (401, "refused"),
        (403, "refused"),
        (429, "busy"),
        (500, "busy"),
        (503, "busy"),
        (204, "fetch_failed"),
        (418, "fetch_failed"),
    ],
)
def test_a_status_is_told_by_its_reason(
    fetcher_of: Make, server: ImageServer, status: int, reason: str
):
    assert fetch(fetcher_of(server.url), f"{server.url}/a.jpg?status={status}") == (None, reason)
    # What passes is asked for again, what lasts is not.
    assert len(server.asked) == (4 if reason == "busy" else 1)


def test_a_file_that_is_not_there_is_gone(fetcher_of: Make, tmp_path: Path):
    assert fetch(fetcher_of(str(tmp_path)), f"{tmp_path}/a.jpg") == (None, "gone")


def test_a_name_that_nobody_knows_is_told(fetcher_of: Make):
    host = "http://nosuchhost.invalid/images"
    assert fetch(fetcher_of(host), f"{host}/a.jpg") == (None, "dns_failed")


def test_a_host_that_is_not_what_it_says_is_told(fetcher_of: Make, server: ImageServer):
    # It speaks no TLS at all.
    host = server.url.replace("http:", "https:")
    assert fetch(fetcher_of(host), f"{host}/a.jpg") == (None, "tls_failed")
    assert server.asked == []


def test_a_server_that_is_not_there_is_a_failed_fetch(fetcher_of: Make):
    host = "http://127.0.0.1:9"
    assert fetch(fetcher_of(host), f"{host}/a.jpg") == (None, "fetch_failed")


def test_an_unknown_scheme_is_a_failed_fetch(fetcher_of: Make):
    store = "nosuchstore://bucket/images"
    assert fetch(fetcher_of(store), f"{store}/a.jpg") == (None, "fetch_failed")


def test_a_busy_server_is_asked_again_until_it_answers(fetcher_of: Make, server: ImageServer):
    uri = f"{server.url}/a.jpg?status=503&times=2"
    assert fetch(fetcher_of(server.url), uri) == (IMAGE, None)
    assert len(server.asked) == 3


def test_a_host_that_asks_to_wait_is_left_alone_for_so_long(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url)
    first = fetcher.start(f"{server.url}/a.jpg?status=429&times=1&after=1")
    while not server.asked:
        time.sleep(0.01)
    time.sleep(0.2)
    started = time.monotonic()
    assert fetch(fetcher, f"{server.url}/b.jpg") == (IMAGE, None)
    assert time.monotonic() - started > 0.5
    assert first.result().content == IMAGE


def test_nobody_waits_for_longer_than_an_address_may_take(fetcher_of: Make, server: ImageServer):
    started = time.monotonic()
    uri = f"{server.url}/a.jpg?status=503&after=3600"
    assert fetch(fetcher_of(server.url), uri) == (None, "busy")
    assert time.monotonic() - started < 2
    assert len(server.asked) == 1


def test_retry_after_is_seconds_or_a_date():
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("7") == 7
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_seconds("Wed, 21 Oct 2115 07:28:00 GMT") > 3600


@pytest.mark.parametrize("name", ["slow.jpg", "slow-header.jpg", "a.jpg?wait=3"])
def test_a_server_that_drips_or_is_silent_is_given_up_in_time(
    fetcher_of: Make, server: ImageServer, name: str
):
    fetcher = fetcher_of(server.url, timeout_seconds=0.5)
    started = time.monotonic()
    assert fetch(fetcher, f"{server.url}/{name}") == (None, "fetch_timed_out")
    assert time.monotonic() - started < 2
    assert len(server.asked) == 1


def test_an_answer_that_is_cut_is_asked_for_again(fetcher_of: Make, server: ImageServer):
    assert fetch(fetcher_of(server.url), f"{server.url}/cut.jpg") == (None, "fetch_failed")
    assert len(server.asked) == 4


def test_a_host_that_fails_again_and_again_is_not_asked_for_a_while(
    fetcher_of: Make, server: ImageServer
):
    fetcher = fetcher_of(server.url, timeout_seconds=1)
    server.speaks.clear()
    for future in [fetcher.start(f"{server.url}/{n}.jpg") for n in range(MOST_FAILURES)]:
        assert future.result().reason == "fetch_timed_out"
    asked = len(server.asked)
    failed = fetcher.start(f"{server.url}/another.jpg").result()
    assert (failed.reason, failed.try_later) == ("fetch_timed_out", True)
    assert len(server.asked) == asked


def test_a_probe_finds_out_that_a_host_is_back(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url, timeout_seconds=1)
    server.speaks.clear()
    for future in [fetcher.start(f"{server.url}/{n}.jpg") for n in range(MOST_FAILURES)]:
        assert future.result().reason == "fetch_timed_out"
    assert fetcher.start(f"{server.url}/a.jpg").result().try_later
    server.speaks.set()
    assert fetcher.start(f"{server.url}/a.jpg", probe=True).result().content == IMAGE
    assert fetch(fetcher, f"{server.url}/b.jpg") == (IMAGE, None)


def test_many_images_that_are_gone_are_no_fault_of_the_host(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url)
    for number in range(2 * MOST_FAILURES):
        assert fetch(fetcher, f"{server.url}/{number}.jpg?status=404") == (None, "gone")
    assert fetch(fetcher, f"{server.url}/a.jpg") == (IMAGE, None)


def test_a_redirect_is_followed_to_allowed_places_only(fetcher_of: Make, server: ImageServer):
    with image_server() as other:
        fetcher = fetcher_of(f"{server.url}/images", f"{other.url}/images")
        for target in (f"{other.url}/images/a.jpg", "/images/a.jpg", "deep/a.jpg"):
            uri = f"{server.url}/images/redirect.jpg?to={target}"
            assert fetch(fetcher, uri) == (IMAGE, None), target
        asked = len(other.asked)
        for target in (
            f"{other.url}/a.jpg",
            f"{other.url}/images/../a.jpg",
            f"{other.url}/images/%252e%252e/a.jpg",
            "../a.jpg",
            "/a.jpg",
            "//127.0.0.2/images/a.jpg",
            "file:///images/a.jpg",
            "https://user:password@127.0.0.1/images/a.jpg",
        ):
            uri = f"{server.url}/images/redirect.jpg?to={target.replace('%', '%25')}"
            assert fetch(fetcher, uri) == (None, "not_allowed"), target
        assert len(other.asked) == asked


def test_redirects_in_a_circle_end(fetcher_of: Make, server: ImageServer):
    assert fetch(fetcher_of(server.url), f"{server.url}/circle.jpg") == (None, "fetch_failed")
    assert len(server.asked) == 6


def test_an_encoded_answer_is_decoded_within_the_limit(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url)
    assert fetch(fetcher, f"{server.url}/gzip.jpg") == (IMAGE, None)
    assert fetch(fetcher, f"{server.url}/bomb.jpg") == (None, "too_large")


def test_no_more_than_the_limit_is_read(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(server.url, max_bytes=50_000)
    assert fetch(fetcher, f"{server.url}/endless.jpg") == (None, "too_large")
    time.sleep(0.2)
    # What lies in the sockets' buffers was sent, but never read.
    assert server.sent < 20_000_000


def test_a_size_that_is_announced_is_believed(fetcher_of: Make, server: ImageServer):
    uri = f"{server.url}/announced-large.jpg"
    assert fetch(fetcher_of(server.url), uri) == (None, "too_large")


def test_the_limit_itself_is_not_too_large(fetcher_of: Make, tmp_path: Path, server: ImageServer):
    (tmp_path / "a.jpg").write_bytes(IMAGE)
    for prefix in (str(tmp_path), server.url):
        exact, below = (fetcher_of(prefix, max_bytes=len(IMAGE) - less) for less in (0, 1))
        assert fetch(exact, f"{prefix}/a.jpg") == (IMAGE, None)
        assert fetch(below, f"{prefix}/a.jpg") == (None, "too_large")


def test_images_wait_in_a_bounded_buffer(fetcher_of: Make, server: ImageServer):
    size = len(IMAGE)
    fetcher = fetcher_of(server.url, max_bytes=size, buffer_bytes=5 * size)
    asked = [fetcher.start(f"{server.url}/{number}.jpg") for number in range(20)]
    time.sleep(0.3)
    done = [future for future in asked if future.done()]
    # Room is taken before a size is known, so fewer than fit may have come.
    assert 1 <= len(done) <= 5
    for future in asked:
        if not future.done():
            fetcher.release(done.pop().result()) if done else None
        assert future.result(5).content == IMAGE
        done.append(future)


def test_nothing_is_logged(fetcher_of: Make, server: ImageServer, caplog: pytest.LogCaptureFixture):
    fetcher = fetcher_of(server.url)
    caplog.set_level(logging.DEBUG)
    for name in ("a.jpg", "a.jpg?status=404&signature=secret", "redirect.jpg?to=file:secret"):
        fetch(fetcher, f"{server.url}/{name}")
    assert caplog.text == ""


def test_what_hangs_in_a_file_system_is_left_behind(
    fetcher_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hangs = threading.Event()
    monkeypatch.setattr(fetching, "_read_range", lambda place, end: hangs.wait(20))
    try:
        assert fetch(fetcher_of(str(tmp_path), timeout_seconds=0.2), f"{tmp_path}/a.jpg") == (
            None,
            "fetch_timed_out",
        )
    finally:
        hangs.set()
