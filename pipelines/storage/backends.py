"""File systems by URL, set up for a job: no cached listings, and no request waits for ever.

Checkpoints, posts and annotations are opened here alike. The job does not use Beam's own file
systems: fsspec's are the same on every runner, reach more stores, and can create a file only
where there is none.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec

# Without a byte for so long, a connection is given up, and the request sent again.
_SILENT_SECONDS = 60.0

_BUCKETS = ("s3", "s3a", "gs", "gcs")


class CredentialsInURLError(ValueError):
    """A bucket's URL with a user name or password in it; the message does not repeat them."""


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return a URL's file system and its path there.

    Raises CredentialsInURLError where a bucket's URL has a user name in it, and what fsspec raises.
    """
    protocol, separator, rest = url.partition("://")
    protocol = protocol if separator else "file"
    if protocol in _BUCKETS and "@" in rest.partition("/")[0]:
        # The stores' libraries take it for the bucket's name, and quote it in what they raise.
        raise CredentialsInURLError(
            f"{protocol}:// takes no user name and password in the URL; leave them out, "
            "the store's own environment variables and files have the credentials"
        )
    given = fsspec.config.conf.get(protocol, {})
    settings = {name: value for name, value in _settings(protocol).items() if name not in given}
    fs, path = fsspec.core.url_to_fs(url, **settings)
    return fs, path


def _settings(protocol: str) -> dict[str, Any]:
    """What a store's client is told beside its own configuration, which comes first."""
    if protocol in ("s3", "s3a"):
        # Retries and time-outs are botocore's and s3fs's own: AWS_MAX_ATTEMPTS, AWS_RETRY_MODE.
        return {"use_listings_cache": False}
    if protocol in ("gs", "gcs"):
        # gcsfs would ask for each bucket's kind over gRPC, and waits a minute for each answer
        # where that is not let through. Only zonal buckets need it.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=15.0, sock_read=_SILENT_SECONDS)
        return {"use_listings_cache": False, "session_kwargs": {"timeout": timeout}}
    return {}
