from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.output.ledger import Part
from pipelines.annotate.output.verify_parts import count_duplicate_ids
from pipelines.storage.files import open_store


def write_ids(
    root: Path, name: str, ids: list[str | None], dead: list[str | None]
) -> dict[str, Part]:
    parts = {}
    for tree, values in (("annotations", ids), ("dead_letters", dead)):
        (root / tree).mkdir(exist_ok=True)
        pq.write_table(pa.table({"post_id": pa.array(values, pa.string())}), root / tree / name)
        size = (root / tree / name).stat().st_size
        parts[f"{tree}/{name}"] = Part(len(values), size, "")
    return parts


def test_ids_that_occurred_before_are_counted_over_parts_and_trees(tmp_path: Path) -> None:
    parts = {
        **write_ids(tmp_path, "a.parquet", ["1", "2", "2"], [None, "1"]),
        **write_ids(tmp_path, "b.parquet", ["2", "3", "ü"], [None, "ü"]),
    }
    empty = write_ids(tmp_path, "c.parquet", [], [])
    store = open_store(str(tmp_path))
    assert count_duplicate_ids(store, {**parts, **empty}, {}) == 4
    assert count_duplicate_ids(store, empty, {}) == 0
    assert count_duplicate_ids(store, {}, {}) == 0


def test_counting_does_not_hold_the_ids_of_all_parts(tmp_path: Path) -> None:
    parts: dict[str, Part] = {}
    for part in range(60):
        ids = [f"{part}-{n:0100d}" for n in range(5_000)]
        parts |= write_ids(tmp_path, f"{part}.parquet", ids, [])
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert count_duplicate_ids(open_store(str(tmp_path)), parts, {}) == 0
    finally:
        pa.set_memory_pool(before)
    peak = pool.max_memory()
    if peak is None:
        pytest.skip("this Arrow does not measure its memory")
    assert peak < 60 * 5_000 * 100 * 0.8
