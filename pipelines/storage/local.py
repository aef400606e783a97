"""This machine's own disk: where caches lie, what a command writes to."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import DRFError, UsageError


def cache_folder(name: str) -> str | None:
    """The folder of one cache: below DRF_CACHE, else below the user's cache folder.

    None where there is none: a container's user may have no home.
    """
    if configured := os.environ.get("DRF_CACHE"):
        return str(Path(configured).expanduser().absolute() / name)
    if configured := os.environ.get("XDG_CACHE_HOME"):
        return str(Path(configured) / "drf" / name)
    try:
        return str(Path.home() / ".cache" / "drf" / name)
    except RuntimeError:
        return None


def local_folder(name: str) -> Path:
    """The folder of --output, made and found writable before anything is computed.

    Raises UsageError for a URL, which would become a local folder called "s3:", DRFError where
    nothing can be written.
    """
    if "://" in name:
        raise UsageError("--output: is a URL; name a local folder, and copy it when it is done")
    folder = Path(name)
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DRFError(f"--output {name}: cannot be written: {error.strerror}") from error
    return folder
