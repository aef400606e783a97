"""The folder that a command writes to where it writes local files."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import DRFError, UsageError


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
