"""What went wrong and where, in words that one can show: one line, without credentials."""

from __future__ import annotations

import re

from pipelines.storage.backends import BACKENDS, backend_of

_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)

# What is left of a URL where a library quotes it without its scheme: user:password@bucket.
_USERINFO = re.compile(r"[^\s:/@\"'`]+:[^\s/@\"'`]+@(?=\w)")

# What stores' libraries say, and what is to be done about it.
_WAYS_OUT = (
    *(way_out for backend in BACKENDS for way_out in backend.ways_out),
    (
        r"^(Access Denied|Forbidden\b.*|.* does not have storage\..* access.*)$",
        "the store's credentials in use may not do that; use others, or have them allowed",
    ),
    (r"bucket does not exist", "create it, or correct the URL"),
)


def redact(url: str) -> str:
    """Return the URL without what may be a secret: userinfo and query. Paths stay as they are."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = rest.partition("?")[0]
    authority, slash, path = rest.partition("/")
    backend = backend_of(scheme)
    if "@" in authority and not (backend and backend.at == "container"):
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}{slash}{path}"


def one_line(text: str) -> str:
    """Return the text as one printable line, its URLs without credentials."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    text = _URL.sub(lambda url: redact(url.group()), " ".join(printable.split()))
    return _USERINFO.sub("", text)


def reason_of(error: BaseException) -> str:
    """Return why, in one line without credentials, and the way out where stores leave it open."""
    if isinstance(error, OSError) and error.strerror:
        text = one_line(str(error.strerror))
    else:
        text = one_line(str(error)) or type(error).__name__
    text = text if len(text) <= 300 else text[:297] + "..."
    way_out = next((way for sign, way in _WAYS_OUT if re.search(sign, text)), None)
    return f"{text}; {way_out}" if way_out else text
