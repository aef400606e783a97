"""A web server of images that misbehaves as its paths say, and fetchers of what it has."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
import time
import urllib.parse
from collections.abc import Iterator

from pipelines.annotate.fetch.fetcher import ImageFetcher
from tests.data import corpora

IMAGE = corpora.image_bytes()


class ImageServer(http.server.ThreadingHTTPServer):
    """`asked` holds the paths of its requests, `most_at_once` how many it worked on together."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.sent = 0
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()
        self.speaks = threading.Event()
        self.speaks.set()

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ImageServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked.append(self.path)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        asks = dict(urllib.parse.parse_qsl(query))
        name = path.rpartition("/")[2].removesuffix(".jpg")
        self.server.speaks.wait(30)
        time.sleep(float(asks.get("wait", 0)))
        times = sum(asked == self.path for asked in self.server.asked)
        if "status" in asks and times <= int(asks.get("times", 99)):
            self._send(int(asks["status"]), b"", **{"Retry-After": asks.get("after")})
        elif name == "redirect":
            self._send(302, b"", Location=asks["to"])
        elif name == "circle":
            self._send(302, b"", Location=self.path)
        elif name == "gzip":
            self._send(200, gzip.compress(IMAGE), **{"Content-Encoding": "gzip"})
        elif name == "bomb":
            self._send(200, gzip.compress(bytes(10_000_000)), **{"Content-Encoding": "gzip"})
        elif name == "endless":
            self._close_after()
            while True:
                self.server.sent += self.wfile.write(b"x" * 10_000)
        elif name == "slow":
            self._close_after()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif name == "slow-header":
            for letter in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50:
                self.wfile.write(bytes([letter]))
                time.sleep(0.1)
        elif name in ("cut", "announced-large"):
            self._close_after({"cut": len(IMAGE) + 10, "announced-large": 10**9}[name])
            self.wfile.write(IMAGE)
        else:
            self._send(200, IMAGE)

    def _send(self, status: int, body: bytes, **headers: str | None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for header, value in headers.items():
            if value is not None:
                self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def _close_after(self, size: int | None = None) -> None:
        self.close_connection = True
        self.send_response(200)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.send_header("Connection", "close")
        self.end_headers()


@contextlib.contextmanager
def image_server() -> Iterator[ImageServer]:
    """A running server."""
    with ImageServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.speaks.set()
            server.shutdown()


def fetch(fetcher: ImageFetcher, uri: str) -> tuple[bytes | None, str | None]:
    """(bytes, None), or (None, reason)."""
    fetched = fetcher.start(uri).result()
    fetcher.release(fetched)
    return fetched.content, fetched.reason
