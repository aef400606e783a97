"""Fetching: only below the allowed prefixes, in limited time and size, and never a traceback."""

from __future__ import annotations

import http.server
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipelines.annotate.work.fetch import ImageFetcher, check_prefix
from schemas.errors import UsageError
from tests.data import corpora

IMAGE = corpora.image_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (images / "a.jpg").write_bytes(IMAGE)
    (images / "deep" / "b #1?.jpg").write_bytes(IMAGE)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images-of-others").mkdir()
    (tmp_path / "images-of-others" / "a.jpg").write_bytes(b"secret")
    return images


class Server(http.server.ThreadingHTTPServer):
    """A server with one good image and every way to misbehave; `asked` holds its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.sent = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.rpartition("/")[2].partition("?")[0]
        if name == "redirect.jpg":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/images/a.jpg")
            self.end_headers()
        elif name == "gone.jpg":
            self.send_error(404)
        elif name == "empty-answer.jpg":
            self.send_response(204)
            self.end_headers()
        elif name == "endless.jpg":
            self.send_response(200)
            self.end_headers()
            while True:
                self.server.sent += self.wfile.write(b"x" * 10_000)
        elif name == "slow.jpg":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif name == "slow-header.jpg":
            for letter in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50:
                self.wfile.write(bytes([letter]))
                time.sleep(0.1)
        elif name == "cut.jpg":
            self.send_response(200)
            self.send_header("Content-Length", str(len(IMAGE)))
            self.end_headers()
            self.wfile.write(IMAGE[:-10])
        else:
            size = 10**9 if name == "announced-large.jpg" else len(IMAGE)
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.server.sent += self.wfile.write(IMAGE)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetcher_of(*prefixes: str, max_bytes: int = 100_000, timeout_seconds: float = 5.0):
    return ImageFetcher(prefixes, max_bytes, timeout_seconds)


def test_a_local_image_below_the_prefix_is_fetched(folder: Path):
    fetcher = fetcher_of(str(folder))
    for uri in (f"{folder}/a.jpg", f"file://{folder}/a.jpg", f"FILE://localhost{folder}/a.jpg"):
        assert fetcher.fetch(uri) == (IMAGE, None)
    assert fetcher.fetch(f"{folder}/deep/b #1?.jpg") == (IMAGE, None)


def test_an_image_on_any_store_is_fetched():
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/images/a.jpg", IMAGE)
    store.pipe_file("/bucket/other/a.jpg", b"secret")
    fetcher = fetcher_of("memory://bucket/images/")
    assert fetcher.fetch("memory://bucket/images/a.jpg") == (IMAGE, None)
    assert fetcher.fetch("memory://bucket/images/gone.jpg") == (None, "fetch_failed")
    assert fetcher.fetch("memory://bucket/other/a.jpg") == (None, "not_allowed")


def test_an_image_on_a_web_server_is_fetched(server: Server):
    fetcher = fetcher_of(f"{server.url}/images")
    for name in ("a.jpg", "a.jpg?size=large&x=../..", "ä b.jpg", "%61.jpg"):
        assert fetcher.fetch(f"{server.url}/images/{name}") == (IMAGE, None), name
    shouted = server.url.replace("http", "HTTP")
    assert fetcher.fetch(f"{shouted}/images/a.jpg#part") == (IMAGE, None)


def test_without_prefixes_nothing_is_fetched(folder: Path, server: Server):
    fetcher = fetcher_of()
    assert fetcher.fetch(f"{folder}/a.jpg") == (None, "not_allowed")
    assert fetcher.fetch(f"{server.url}/images/a.jpg") == (None, "not_allowed")
    assert server.asked == []


@pytest.mark.parametrize(
    "uri",
    [
        "{folder}/../secret.jpg",
        "{folder}/deep/../../secret.jpg",
        "{folder}/?/../../secret.jpg",
        "{folder}/#/../../secret.jpg",
        "{folder}/%2e%2e/secret.jpg",
        "{folder}-of-others/a.jpg",
        "file://elsewhere{folder}/a.jpg",
        "file:{folder}/a.jpg",
        "images/a.jpg",
        "a.jpg",
        "~/a.jpg",
        "",
        "data:image/png;base64,AAAA",
        "memory:/{folder}/a.jpg",
        "simplecache::file://{folder}/a.jpg",
        "{folder}/a.jpg\n",
        "{folder}/a\x00.jpg",
    ],
)
def test_a_path_outside_the_prefix_is_not_allowed(folder: Path, uri: str):
    assert fetcher_of(str(folder)).fetch(uri.format(folder=folder)) == (None, "not_allowed")


@pytest.mark.parametrize(
    "uri",
    [
        "{url}/secret.jpg",
        "{url}/images-of-others/a.jpg",
        "{url}/images/../secret.jpg",
        "{url}/images/%2e%2e/secret.jpg",
        "{url}/images/%2E%2E%2Fsecret.jpg",
        "{url}/images/%252e%252e/secret.jpg",
        "{url}/images/%3f%2f..%2fsecret.jpg",
        "{url}/images/..;x=1/secret.jpg",
        "{url}/images/..%5csecret.jpg",
        "{url}/images\\..\\secret.jpg",
        "{url}/images/a.jpg%0d%0aX: y",
        "http://user:password@{host}/images/a.jpg",
        "http://127.0.0.1.example.org/images/a.jpg",
        "http://127.0.0.1/images/a.jpg",
        "https://{host}/images/a.jpg",
        "//{host}/images/a.jpg",
        "http://[::1/images/a.jpg",
        "http://{host}:x/images/a.jpg",
    ],
)
def test_a_url_outside_the_prefix_is_never_asked_for(server: Server, uri: str):
    fetcher = fetcher_of(f"{server.url}/images/")
    uri = uri.format(url=server.url, host=server.url.removeprefix("http://"))
    assert fetcher.fetch(uri) == (None, "not_allowed")
    assert server.asked == []


def test_a_default_port_means_the_same_place():
    # Nothing listens there: that it was tried at all is the point.
    fetcher = fetcher_of("http://127.0.0.1:80/images", timeout_seconds=1)
    assert fetcher.fetch("http://127.0.0.1/images/a.jpg") == (None, "fetch_failed")


def test_a_redirect_is_not_followed(server: Server):
    fetcher = fetcher_of(server.url)
    assert fetcher.fetch(f"{server.url}/redirect.jpg") == (None, "fetch_failed")
    assert server.asked == ["/redirect.jpg"]


@pytest.mark.parametrize("name", ["gone.jpg", "empty-answer.jpg", "cut.jpg"])
def test_a_failed_answer_is_a_failed_fetch(server: Server, name: str):
    assert fetcher_of(server.url).fetch(f"{server.url}/{name}") == (None, "fetch_failed")


def test_a_server_that_is_not_there_is_a_failed_fetch():
    assert fetcher_of("http://127.0.0.1:9").fetch("http://127.0.0.1:9/a.jpg") == (
        None,
        "fetch_failed",
    )


@pytest.mark.parametrize("name", ["slow.jpg", "slow-header.jpg"])
def test_a_server_that_drips_is_given_up_in_time(server: Server, name: str):
    fetcher = fetcher_of(server.url, timeout_seconds=0.5)
    started = time.monotonic()
    assert fetcher.fetch(f"{server.url}/{name}") == (None, "fetch_failed")
    assert time.monotonic() - started < 2


def test_no_more_than_the_limit_is_read(server: Server):
    fetcher = fetcher_of(server.url, max_bytes=50_000)
    assert fetcher.fetch(f"{server.url}/endless.jpg") == (None, "too_large")
    time.sleep(0.2)
    # What lies in the sockets' buffers was sent, but never read.
    assert server.sent < 20_000_000


def test_a_size_that_is_announced_is_believed(server: Server):
    assert fetcher_of(server.url).fetch(f"{server.url}/announced-large.jpg") == (None, "too_large")


def test_the_limit_itself_is_not_too_large(folder: Path, server: Server):
    for uri, prefix in ((f"{folder}/a.jpg", str(folder)), (f"{server.url}/a.jpg", server.url)):
        exact, below = (fetcher_of(prefix, max_bytes=len(IMAGE) - less) for less in (0, 1))
        assert exact.fetch(uri) == (IMAGE, None)
        assert below.fetch(uri) == (None, "too_large")


def test_what_is_no_file_is_a_failed_fetch(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    fetcher = fetcher_of(str(folder))
    for name in ("pipe.jpg", "deep", "gone.jpg"):
        assert fetcher.fetch(f"{folder}/{name}") == (None, "fetch_failed")


def test_an_unknown_scheme_is_a_failed_fetch():
    fetcher = fetcher_of("nosuchstore://bucket/images")
    assert fetcher.fetch("nosuchstore://bucket/images/a.jpg") == (None, "fetch_failed")


def test_nothing_is_logged(server: Server, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    fetcher = fetcher_of(server.url)
    for name in ("a.jpg", "gone.jpg?signature=secret", "redirect.jpg?signature=secret"):
        fetcher.fetch(f"{server.url}/{name}")
    assert caplog.text == ""


def test_a_relative_prefix_is_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    assert check_prefix("images") == str(folder)
    assert check_prefix("s3://bucket/images") == "s3://bucket/images"
    assert fetcher_of("images").fetch(f"{folder}/a.jpg") == (IMAGE, None)


@pytest.mark.parametrize(
    "prefix",
    [
        "https://user:password@cdn.example.org/images",
        "ftp://user:password@cdn.example.org/images",
        "https://cdn.example.org/images?signature=password",
    ],
)
def test_a_prefix_with_a_secret_is_refused_without_repeating_it(prefix: str):
    with pytest.raises(UsageError) as error:
        check_prefix(prefix)
    assert "password" not in str(error.value)


@pytest.mark.parametrize(
    "prefix", ["https://", "s3:///images", "file://host/images", "https://a/../b", "ht tp://a/b"]
)
def test_a_prefix_that_is_no_folder_is_refused(prefix: str):
    with pytest.raises(UsageError, match="not the URL of a folder"):
        check_prefix(prefix)
