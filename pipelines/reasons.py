"""What went wrong and where, in words that one can show: one line, without credentials."""

from __future__ import annotations

import re

_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)

# In these URLs the part before "@" is a container, not a credential.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")


def redact(url: str) -> str:
    """Return the URL without what may be a secret: userinfo and query. Paths stay as they are."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = rest.partition("?")[0]
    authority, slash, path = rest.partition("/")
    if "@" in authority and scheme not in _CONTAINER_SCHEMES:
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}{slash}{path}"


def one_line(text: str) -> str:
    """Return the text as one printable line, its URLs without credentials."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return _URL.sub(lambda url: redact(url.group()), " ".join(printable.split()))


def reason_of(error: BaseException) -> str:
    """Return why, in one line without credentials."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    text = one_line(str(error)) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
