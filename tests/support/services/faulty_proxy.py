"""An HTTP proxy before an object store's emulator, which counts requests and spoils some.

It stands in for what the emulators do not do: a store that is overloaded, connections that
break before, within or after an answer, and listings that are behind the objects.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")
_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

# What may be done to a request: refused, not answered, answered half, done and not answered.
FAULTS = ("slow_down", "internal_error", "reset", "cut", "lost_answer", "stall")


@dataclass(frozen=True)
class Request:
    """A request as the store sees it. kind: GET, HEAD, PUT, …, LIST, COPY."""

    kind: str
    path: str
    status: int


@dataclass
class Proxy:
    """What the proxy does; change it while it runs.

    fault_share: of requests, drawn with `seed`. faults: which. refuse: says which requests
    fail every time, and how (status and code). late_seconds: so long a listing does not know
    of a new object, and still has one that is gone.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    spoilt: Counter[str] = field(default_factory=Counter)
    fault_share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    stall_seconds: float = 3.0
    late_seconds: float = 0.0
    before: Callable[[Request], None] | None = None
    refuse: Callable[[Request], tuple[int, bytes] | None] | None = None

    def counts(self) -> dict[str, int]:
        """Return how many requests of each kind there were."""
        return dict(sorted(Counter(request.kind for request in self.requests).items()))


@contextlib.contextmanager
def run_proxy(backend: str) -> Iterator[Proxy]:
    """Run a proxy before the server at `backend` (host:port)."""
    proxy = Proxy()
    state = _State(proxy, backend)
    server = _Server(("127.0.0.1", 0), _handler(state))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that were reset, or killed, leave broken connections."""


class _State:
    def __init__(self, proxy: Proxy, backend: str) -> None:
        self.proxy = proxy
        self.backend = backend
        self.lock = threading.Lock()
        # Emulators test a condition and then write; a real store does both at once.
        self.conditional = threading.Lock()
        self.random: random.Random | None = None
        # Of "bucket/key": when it appeared or went; for those that went, bytes and ETag.
        self.appeared: dict[str, float] = {}
        self.gone: dict[str, tuple[float, int, str]] = {}

    def draw(self) -> str | None:
        with self.lock:
            if not self.proxy.fault_share:
                self.random = None
                return None
            self.random = self.random or random.Random(self.proxy.seed)
            if self.random.random() >= self.proxy.fault_share:
                return None
            fault = self.random.choice(self.proxy.faults)
            self.proxy.spoilt[fault] += 1
            return fault

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.backend, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _kind(method: str, path: str, copies: bool) -> str:
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    if "list-type" in query or re.fullmatch(r"/storage/v1/b/[^/]+/o", url.path):
        return "LIST"
    return "COPY" if copies or "/rewriteTo/" in url.path else method


def _handler(state: _State) -> type[BaseHTTPRequestHandler]:
    proxy = state.proxy

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer's head and body are two writes, and Nagle waits 40 ms between them.
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_expect_100(self) -> bool:
            proceed = super().handle_expect_100()
            self.wfile.flush()
            return proceed

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            kind = _kind(self.command, self.path, "x-amz-copy-source" in self.headers)
            request = Request(kind, unquote(self.path), 0)
            if proxy.before is not None:
                proxy.before(request)
            if proxy.refuse is not None and (refused := proxy.refuse(request)) is not None:
                self.answer(request, refused[0], [("Content-Type", "application/xml")], refused[1])
                return
            fault = state.draw()
            if fault == "slow_down":
                self.answer(request, 503, [("Content-Type", "application/xml")], _SLOW_DOWN)
                return
            if fault == "internal_error":
                self.answer(request, 500, [], b"")
                return
            if fault == "reset":
                self.reset()
                return
            with self.conditions(headers):
                before = self.note_removal(kind)
                status, answered, content = state.ask(self.command, self.path, headers, body)
            if status < 300:
                self.note(kind, before)
            if fault == "lost_answer":
                self.reset()
                return
            if fault == "stall":
                time.sleep(proxy.stall_seconds)
                self.reset()
                return
            if kind == "LIST" and status == 200 and proxy.late_seconds:
                content = self.as_it_was(content)
            self.answer(request, status, answered, content, cut=fault == "cut")

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

        def conditions(self, headers: dict[str, str]) -> contextlib.AbstractContextManager[object]:
            conditional = "If-None-Match" in headers or "ifGenerationMatch" in self.path
            return state.conditional if conditional else contextlib.nullcontext()

        def answer(
            self,
            request: Request,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            cut: bool = False,
        ) -> None:
            with state.lock:
                proxy.requests.append(Request(request.kind, request.path, status))
            self.send_response(status)
            length = None
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            head = self.command == "HEAD"
            self.send_header("Content-Length", (length or "0") if head else str(len(content)))
            self.end_headers()
            if cut:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.reset()
            elif not head:
                self.wfile.write(content)

        def reset(self) -> None:
            # Linger 0: the client gets a reset, not an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.wfile = _Nowhere()
            self.connection.close()

        def object_name(self) -> str:
            path = urlsplit(self.path).path
            google = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", path)
            return unquote("/".join(google.groups()) if google else path.lstrip("/"))

        def note_removal(self, kind: str) -> tuple[int, str] | None:
            if kind != "DELETE" or not proxy.late_seconds:
                return None
            google = self.path.startswith("/storage/")
            method = "GET" if google else "HEAD"
            status, headers, content = state.ask(method, self.path, {}, b"")
            if status != 200:
                return None
            if google:
                return int(json.loads(content)["size"]), ""
            found = {name.lower(): value for name, value in headers}
            return int(found["content-length"]), found["etag"]

        def note(self, kind: str, before: tuple[int, str] | None) -> None:
            name = self.object_name()
            with state.lock:
                if kind in ("PUT", "COPY"):
                    state.gone.pop(name, None)
                    state.appeared.setdefault(name, time.monotonic())
                elif before is not None:
                    state.appeared.pop(name, None)
                    state.gone[name] = (time.monotonic(), *before)

        def as_it_was(self, content: bytes) -> bytes:
            since = time.monotonic() - proxy.late_seconds
            if self.path.startswith("/storage/"):
                return _late_json(content, proxy.late_seconds)
            query = parse_qs(urlsplit(self.path).query)
            bucket = urlsplit(self.path).path.strip("/")
            prefix = query.get("prefix", [""])[0]

            def shown(match: re.Match[bytes]) -> bytes:
                key = re.search(rb"<Key>(.*?)</Key>", match[0], re.DOTALL)
                assert key is not None
                name = f"{bucket}/{unquote(key[1].decode())}"
                return b"" if state.appeared.get(name, 0.0) > since else match[0]

            with state.lock:
                content = re.sub(rb"<Contents>.*?</Contents>", shown, content, flags=re.DOTALL)
                start = f"{bucket}/{prefix}"
                ghosts = [
                    _ghost(name[len(bucket) + 1 :], size, etag)
                    for name, (when, size, etag) in state.gone.items()
                    if when > since
                    and name.startswith(start)
                    and not ("delimiter" in query and "/" in name[len(start) :])
                ]
            return content.replace(
                b"</ListBucketResult>", b"".join(ghosts) + b"</ListBucketResult>"
            )

    return Handler


class _Nowhere:
    closed = True

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _ghost(key: str, size: int, etag: str) -> bytes:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-11-19T00:00:00.000Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    ).encode()


def _late_json(content: bytes, seconds: float) -> bytes:
    import datetime

    now = datetime.datetime.now(datetime.timezone.utc)
    listing = json.loads(content)
    listing["items"] = [
        item
        for item in listing.get("items", [])
        if (now - datetime.datetime.fromisoformat(item["timeCreated"])).total_seconds() > seconds
    ]
    return json.dumps(listing).encode()
