"""Where this user's caches lie: what can be deleted at any time and is made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> str | None:
    """The folder of one cache: below DRF_CACHE, else below the user's cache folder.

    None where there is none: a container's user may have no home.
    """
    if given := os.environ.get("DRF_CACHE"):
        return str(Path(given).expanduser().absolute() / name)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return str(Path(given) / "drf" / name)
    try:
        return str(Path.home() / ".cache" / "drf" / name)
    except RuntimeError:
        return None
