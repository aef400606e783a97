"""Images that came as a URI: fetched only from allowed places, in limited time and size.

A post's URI is written by strangers. It is compared with the prefixes that the operator
allows part by part, never as a string, and nothing is asked of any other place: no redirect
is followed, and fsspec's chained URLs are not understood.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.storage.backends import open_url
from schemas.errors import UsageError
from schemas.reasons import ModalityReason

_CHUNK_BYTES = 1 << 16
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*\Z")
# Servers take a backslash for a slash; the others end a line or a string for someone.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
# What may stand in a URL as it is; all else (spaces, other scripts) is quoted.
_URL_CHARACTERS = "%/:=&?~+!$,;'@()*[]"
_MOST_QUOTINGS = 5


@dataclass(frozen=True)
class _Place:
    """A URI or a prefix taken apart, so that two spellings of one place are equal.

    authority: host and port, bucket or container; "" for local files. folders: the segments
    of the path, unquoted where the scheme quotes them. url: what to open.
    """

    scheme: str
    authority: str
    folders: tuple[str, ...]
    url: str

    def lies_under(self, prefix: _Place) -> bool:
        return (self.scheme, self.authority) == (prefix.scheme, prefix.authority) and self.folders[
            : len(prefix.folders)
        ] == prefix.folders


class ImageFetcher:
    """Fetches images below the allowed prefixes; safe to use from many threads.

    prefixes: URLs of folders, such as https://cdn.example.org/images, s3://bucket/2026 or a
    local path. max_bytes: an image above it is too_large. timeout_seconds: for one image,
    from the connection to its last byte.
    Raises UsageError where a prefix cannot be one (see check_prefix).
    """

    def __init__(
        self, prefixes: Iterable[str], max_bytes: int, timeout_seconds: float = 30.0
    ) -> None:
        self._prefixes = tuple(_parse_prefix(prefix) for prefix in prefixes)
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds

    def fetch(self, uri: str) -> tuple[bytes | None, ModalityReason | None]:
        """Return (bytes, None), or (None, reason) where the image cannot be had.

        reason: not_allowed (nothing was asked of the place), too_large (no more than the
        limit was read) or fetch_failed. Never raises, and logs nothing.
        """
        place = _parse(uri)
        if place is None or not any(place.lies_under(prefix) for prefix in self._prefixes):
            return None, ModalityReason.NOT_ALLOWED
        # On a thread that is left behind when the time is up: the libraries' own limits
        # begin anew with every byte that arrives, and file systems have none.
        outcome: list[tuple[bytes | None, ModalityReason | None]] = []
        thread = threading.Thread(
            target=self._read_to, args=(outcome, place), name="fetch-image", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            return None, ModalityReason.FETCH_FAILED
        thread.join(self._timeout_seconds)
        return outcome[0] if outcome else (None, ModalityReason.FETCH_FAILED)

    def _read_to(
        self, outcome: list[tuple[bytes | None, ModalityReason | None]], place: _Place
    ) -> None:
        try:
            read = self._read_http if place.scheme in _DEFAULT_PORTS else self._read_store
            content = read(place)
        except Exception:
            # What went wrong may name hosts, paths or credentials: only the reason leaves.
            outcome.append((None, ModalityReason.FETCH_FAILED))
        else:
            too_large = content is None or len(content) > self._max_bytes
            outcome.append((None, ModalityReason.TOO_LARGE) if too_large else (content, None))

    def _read_http(self, place: _Place) -> bytes | None:
        deadline = time.monotonic() + self._timeout_seconds
        request = urllib.request.Request(place.url, headers={"User-Agent": "drf-pipelines"})
        with _opener().open(request, timeout=self._timeout_seconds) as response:
            if response.status != 200:
                raise OSError(f"status {response.status}")
            announced = response.headers.get("Content-Length")
            if announced is not None and int(announced) > self._max_bytes:
                return None
            content = bytearray()
            while chunk := response.read1(min(_CHUNK_BYTES, self._max_bytes + 1 - len(content))):
                content += chunk
                if len(content) > self._max_bytes:
                    return None
                if time.monotonic() > deadline:
                    raise TimeoutError
        if announced is not None and len(content) < int(announced):
            raise OSError("the connection ended before the image")
        return bytes(content)

    def _read_store(self, place: _Place) -> bytes | None:
        # A pipe or a device would wait, or read, for ever.
        if place.scheme == "file" and not os.path.isfile(place.url):
            raise FileNotFoundError
        # One request for a range, without asking for the size first.
        fs, path = open_url(place.url)
        return fs.cat_file(path, start=0, end=self._max_bytes + 1)


def check_prefix(prefix: str) -> str:
    """Return the prefix as jobs carry it: a local path is made absolute.

    Raises UsageError where it names no host, bucket or folder, or holds credentials, a
    query or `..`.
    """
    if "://" not in prefix:
        prefix = os.path.abspath(os.path.expanduser(prefix))
    _parse_prefix(prefix)
    return prefix


def _parse_prefix(prefix: str) -> _Place:
    if "://" not in prefix:
        prefix = os.path.abspath(os.path.expanduser(prefix))
    scheme, _, rest = prefix.partition("://")
    authority = rest.partition("/")[0]
    if ":" in authority.rpartition("@")[0] or (scheme.lower() in _DEFAULT_PORTS and "@" in rest):
        raise UsageError(
            "--image-uri-prefix: a prefix holds credentials; give them in the environment, "
            "where the store's library looks for them"
        )
    if scheme.lower() in _DEFAULT_PORTS and ("?" in rest or "#" in rest):
        raise UsageError("--image-uri-prefix: a prefix holds a query or '#'; end it before those")
    place = _parse(prefix)
    if place is None or (place.scheme != "file" and not place.authority):
        raise UsageError(
            f"--image-uri-prefix {prefix}: not the URL of a folder, such as "
            "https://cdn.example.org/images, s3://bucket/images or /data/images"
        )
    while place.folders and not place.folders[-1]:
        place = _Place(place.scheme, place.authority, place.folders[:-1], place.url)
    return place


def _parse(uri: str) -> _Place | None:
    """Take a URI apart, or return None where it is malformed or may mean another place."""
    if _FORBIDDEN.search(uri):
        return None
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", uri
    scheme = scheme.lower()
    if not _SCHEME.match(scheme):
        return None
    if scheme in _DEFAULT_PORTS:
        return _parse_http(scheme, rest)
    # Outside http, "?" and "#" are characters of a path like any other.
    authority, slash, path = rest.partition("/")
    if _may_climb(rest):
        return None
    if scheme in ("file", "local"):
        # A relative path has no folder to start from on a worker.
        if not slash or authority not in ("", "localhost"):
            return None
        return _Place("file", "", tuple(path.split("/")), f"/{path}")
    return _Place(scheme, authority, tuple(path.split("/")), f"{scheme}://{rest}")


def _parse_http(scheme: str, rest: str) -> _Place | None:
    try:
        parts = urllib.parse.urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS[scheme]
        authority = parts.netloc.encode("ascii").decode()
    except ValueError:
        return None
    if not host or "@" in authority or " " in authority or _may_climb(parts.path):
        return None
    folders = tuple(urllib.parse.unquote(folder) for folder in parts.path.split("/")[1:])
    quoted = urllib.parse.quote(parts._replace(fragment="").geturl(), safe=_URL_CHARACTERS)
    return _Place(scheme, f"{host}:{port}", folders, quoted)


def _may_climb(path: str) -> bool:
    """Whether some server could read `.`, `..` or a forbidden character out of the path."""
    for _ in range(_MOST_QUOTINGS):
        # "..;x" is ".." to servers that know path parameters.
        if any(folder.split(";")[0] in (".", "..") for folder in path.split("/")):
            return True
        unquoted = urllib.parse.unquote(path)
        if unquoted == path:
            return False
        if _FORBIDDEN.search(unquoted):
            return True
        path = unquoted
    return True


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that knows http and https, proxies, and no redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
