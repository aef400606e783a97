"""What is particular to each kind of store, one record per store, and file systems by URL.

Checkpoints, posts and annotations are opened here alike. The job does not use Beam's own file
systems: fsspec's are the same on every runner, reach more stores, and can create a file only
where there is none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

# Without a byte for so long, a connection is given up, and the request sent again.
_SILENT_SECONDS = 60.0


class CredentialsInURLError(ValueError):
    """A bucket's URL with a user name or password in it; the message does not repeat them."""


def _never(error: Exception) -> bool:
    return False


@dataclass(frozen=True)
class Backend:
    """A kind of store.

    protocols: of its URLs. settings: what its client is told beside its own configuration,
    which comes first. checksums: what its listings call a checksum of the content, the surest
    first. modified: what they call the time of the last write. may_pass: whether it may answer
    otherwise in a moment. was_there: whether it refused to create a file because there is one.
    ways_out: (regular expression of an error's line, what is to be done about it).
    at: what "@" in the authority of a URL stands behind: "user" (a secret), "container" (none),
    or "nothing": its library would take it for the bucket's name, and quote it in what it raises.
    """

    protocols: tuple[str, ...]
    settings: Callable[[], dict[str, Any]] = dict
    checksums: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    may_pass: Callable[[Exception], bool] = _never
    was_there: Callable[[Exception], bool] = _never
    ways_out: tuple[tuple[str, str], ...] = ()
    at: str = "user"


def _s3_settings() -> dict[str, Any]:
    # Retries and time-outs are botocore's and s3fs's own: AWS_MAX_ATTEMPTS, AWS_RETRY_MODE.
    return {"use_listings_cache": False}


def _s3_code(error: Exception) -> str | None:
    """The code of botocore's error, which s3fs keeps as the cause of its own."""
    answer = getattr(error.__cause__, "response", None)
    return answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None


def _s3_may_pass(error: Exception) -> bool:
    # As s3fs words the answers 500, 503 and 409 ("somebody else is writing this just now").
    if isinstance(error, OSError) and error.errno in (errno.EREMOTEIO, errno.EBUSY):
        return True
    return _s3_code(error) in ("ConditionalRequestConflict", "OperationAborted", "RequestTimeout")


def _s3_was_there(error: Exception) -> bool:
    # s3fs knows a refused condition only by a field that not every server sends.
    return _s3_code(error) in ("PreconditionFailed", "412")


S3 = Backend(
    protocols=("s3", "s3a"),
    settings=_s3_settings,
    checksums=("ETag",),
    modified=("LastModified",),
    may_pass=_s3_may_pass,
    was_there=_s3_was_there,
    ways_out=(
        (r"Install s3fs", "this package's extra `s3` has it: pip install '.[s3]'"),
        (
            r"Unable to locate credentials|Partial credentials",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for client and "
            "workers",
        ),
        (r"connect to the endpoint URL", "check the network and AWS_ENDPOINT_URL"),
    ),
    at="nothing",
)


def _gcs_settings() -> dict[str, Any]:
    # gcsfs would ask for each bucket's kind over gRPC, and waits a minute for each answer
    # where that is not let through. Only zonal buckets need it.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=15.0, sock_read=_SILENT_SECONDS)
    return {"use_listings_cache": False, "session_kwargs": {"timeout": timeout}}


def _gcs_may_pass(error: Exception) -> bool:
    code = str(getattr(error, "code", ""))
    return type(error).__name__ == "HttpError" and (code in ("408", "429") or code[:1] == "5")


GCS = Backend(
    protocols=("gs", "gcs"),
    settings=_gcs_settings,
    checksums=("md5Hash", "crc32c"),
    modified=("mtime",),
    may_pass=_gcs_may_pass,
    ways_out=(
        (r"install gcsfs", "this package's extra `gcs` has it: pip install '.[gcs]'"),
        (
            r"Anonymous caller|Invalid Credentials|default credentials",
            "set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud, for client and workers",
        ),
    ),
    at="nothing",
)

AZURE = Backend(
    protocols=("abfs", "abfss", "wasb", "wasbs"),
    checksums=("content_md5", "etag", "e_tag"),
    modified=("last_modified",),
    at="container",
)

HUB = Backend(protocols=("hf",), checksums=("blob_id",))

BACKENDS = (GCS, AZURE, S3, HUB)


def backend_of(protocol: str) -> Backend | None:
    """The record of a URL's protocol, None where nothing about its store is particular."""
    return next((backend for backend in BACKENDS if protocol in backend.protocols), None)


def content_checksum(info: Mapping[str, Any]) -> str | None:
    """What a listing's entry tells of the content, as `name:value:bytes`, if it has a checksum."""
    names = (name for backend in BACKENDS for name in backend.checksums)
    return next((f"{name}:{info[name]}:{info['size']}" for name in names if info.get(name)), None)


def modified(info: Mapping[str, Any]) -> Any:
    """What a listing's entry has of the time of the last write, None without one."""
    names = (name for backend in BACKENDS for name in backend.modified)
    return next((info[name] for name in names if info.get(name)), None)


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return a URL's file system and its path there: no cached listings, no endless waits.

    Raises CredentialsInURLError where a bucket's URL has a user name in it, and what fsspec raises.
    """
    protocol, separator, rest = url.partition("://")
    protocol = protocol if separator else "file"
    backend = backend_of(protocol)
    if backend and backend.at == "nothing" and "@" in rest.partition("/")[0]:
        raise CredentialsInURLError(
            f"{protocol}:// takes no user name and password in the URL; leave them out, "
            "the store's own environment variables and files have the credentials"
        )
    configured = fsspec.config.conf.get(protocol, {})
    settings = backend.settings() if backend else {}
    settings = {name: value for name, value in settings.items() if name not in configured}
    if protocol in ("file", "http", "https"):
        # Two colons are a file's name or IPv6's there; fsspec takes them for URLs in a chain.
        kind = fsspec.get_filesystem_class(protocol)
        return kind(**settings), kind._strip_protocol(url)
    fs, path = fsspec.core.url_to_fs(url, **settings)
    return fs, path
