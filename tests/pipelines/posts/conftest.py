from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.corpora import write_nights


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    write_nights(tmp_path / "nightly", files_per_night=1, posts_per_file=3)
    return tmp_path / "nightly"
