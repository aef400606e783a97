"""Which addresses of images may be asked for: those below the prefixes that the operator allows.

A post's URI is written by strangers. It is compared with the prefixes part by part, never as a
string, and fsspec's chained URLs are not understood.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.errors import UsageError

DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*\Z")
# Servers take a backslash for a slash; the others end a line or a string for someone.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
# What may stand in a URL as it is; all else (spaces, other scripts) is quoted.
_URL_CHARACTERS = "%/:=&?~+!$,;'@()*[]"
_MOST_QUOTINGS = 5


@dataclass(frozen=True)
class Place:
    """A URI or a prefix taken apart, so that two spellings of one place are equal.

    authority: host and port, bucket or container; "" for local files. folders: the segments
    of the path, unquoted where the scheme quotes them. url: what to open.
    """

    scheme: str
    authority: str
    folders: tuple[str, ...]
    url: str

    @property
    def host(self) -> str:
        """What requests and failures are counted by; without the port where it is the usual one."""
        usual = f":{DEFAULT_PORTS.get(self.scheme)}"
        return f"{self.scheme}://{self.authority.removesuffix(usual)}"

    def lies_under(self, prefix: Place) -> bool:
        """Whether it is the prefix's folder, or in it at any depth."""
        return (self.scheme, self.authority) == (prefix.scheme, prefix.authority) and self.folders[
            : len(prefix.folders)
        ] == prefix.folders


class AllowedPlaces:
    """The places below some prefixes: URLs of folders, such as https://cdn.example.org/images,
    s3://bucket/2026 or a local path.

    Raises UsageError where a prefix cannot be one (see check_prefix).
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(_parse_prefix(prefix) for prefix in prefixes)

    def find(self, uri: str) -> Place | None:
        """Return the place that a URI names, None where it is not allowed or malformed."""
        place = _parse(uri)
        if place is None or not any(place.lies_under(prefix) for prefix in self._prefixes):
            return None
        return place

    def follow(self, place: Place, location: str) -> Place | None:
        """Return where a redirect from `place` leads, None where that is not allowed."""
        try:
            return self.find(urllib.parse.urljoin(place.url, location))
        except ValueError:
            return None


def check_prefix(prefix: str) -> str:
    """Return the prefix as jobs carry it: a local path is made absolute.

    Raises UsageError where it names no host, bucket or folder, or holds credentials, a
    query or `..`.
    """
    if "://" not in prefix:
        prefix = os.path.abspath(os.path.expanduser(prefix))
    _parse_prefix(prefix)
    return prefix


def _parse_prefix(prefix: str) -> Place:
    if "://" not in prefix:
        prefix = os.path.abspath(os.path.expanduser(prefix))
    scheme, _, rest = prefix.partition("://")
    authority = rest.partition("/")[0]
    if ":" in authority.rpartition("@")[0] or (scheme.lower() in DEFAULT_PORTS and "@" in rest):
        raise UsageError(
            "--image-uri-prefix: a prefix holds credentials; give them in the environment, "
            "where the store's library looks for them"
        )
    if scheme.lower() in DEFAULT_PORTS and ("?" in rest or "#" in rest):
        raise UsageError("--image-uri-prefix: a prefix holds a query or '#'; end it before those")
    place = _parse(prefix)
    if place is None or (place.scheme != "file" and not place.authority):
        raise UsageError(
            f"--image-uri-prefix {prefix}: not the URL of a folder, such as "
            "https://cdn.example.org/images, s3://bucket/images or /data/images"
        )
    while place.folders and not place.folders[-1]:
        place = Place(place.scheme, place.authority, place.folders[:-1], place.url)
    return place


def _parse(uri: str) -> Place | None:
    """Take a URI apart, or return None where it is malformed or may mean another place."""
    if _FORBIDDEN.search(uri):
        return None
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", uri
    scheme = scheme.lower()
    if not _SCHEME.match(scheme):
        return None
    if scheme in DEFAULT_PORTS:
        return _parse_http(scheme, rest)
    # Outside http, "?" and "#" are characters of a path like any other.
    authority, slash, path = rest.partition("/")
    if _may_climb(rest):
        return None
    if scheme in ("file", "local"):
        # A relative path has no folder to start from on a worker.
        if not slash or authority not in ("", "localhost"):
            return None
        return Place("file", "", tuple(path.split("/")), f"/{path}")
    return Place(scheme, authority, tuple(path.split("/")), f"{scheme}://{rest}")


def _parse_http(scheme: str, rest: str) -> Place | None:
    try:
        parts = urllib.parse.urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port or DEFAULT_PORTS[scheme]
        authority = parts.netloc.encode("ascii").decode()
    except ValueError:
        return None
    if not host or "@" in authority or " " in authority or _may_climb(parts.path):
        return None
    folders = tuple(urllib.parse.unquote(folder) for folder in parts.path.split("/")[1:])
    quoted = urllib.parse.quote(parts._replace(fragment="").geturl(), safe=_URL_CHARACTERS)
    return Place(scheme, f"{host}:{port}", folders, quoted)


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
