"""What `drf import` wrote, as tests look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def posts_in(folder: Path) -> dict[str, dict[str, Any]]:
    """All posts that an import wrote, by id; each is in the file of its split."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.parquet")):
        for post in pq.read_table(path).to_pylist():
            assert post["split"] == path.stem
            assert post["post_id"] not in found
            found[post["post_id"]] = post
    return found
