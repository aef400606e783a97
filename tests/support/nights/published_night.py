"""One night as the tests of publishing have it: two files, ten posts each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.corpora import make_posts, write_nights, write_posts

NIGHT = "dt=2026-11-17"
FIRST = f"{NIGHT}/part-00000.parquet"
SECOND = f"{NIGHT}/part-00001.parquet"
COMPLETE = {f"annotations/{NIGHT}/_SUCCESS", f"dead_letters/{NIGHT}/_SUCCESS"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One night of two files with ten posts each, three shards per file."""
    write_nights(tmp_path / "in", ["2026-11-17"])
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows_of(**rows: int) -> list[tuple[str, int]]:
    names = {"first": FIRST, "second": SECOND}
    return sorted((names[name], row) for name, count in rows.items() for row in range(count))


def replace_with(path: Path, count: int, first: int = 500) -> None:
    write_posts(path, make_posts(count, first))
