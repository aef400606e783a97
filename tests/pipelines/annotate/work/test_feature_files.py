"""Files of features: found by key, whoever wrote them, and no worse than absent when damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.annotate.work import feature_files
from pipelines.annotate.work.feature_files import FeatureFiles
from pipelines.storage.files import Store, open_store
from tests.support.nights.stand_in import memory_store

SIZE = 5


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def feature(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=SIZE).astype(np.float32)


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path)) if request.param == "disk" else memory_store("features")


def written(store: Store, numbers: range) -> FeatureFiles:
    files = FeatureFiles(store, "text-1", SIZE)
    for number in numbers:
        files.add(key(number), feature(number))
    files.flush()
    return files


def test_features_are_found_by_whoever_asks_later(store: Store) -> None:
    written(store, range(600))
    written(store, range(600, 700))
    reader = FeatureFiles(store, "text-1", SIZE)
    assert reader.find(key(0)) is None
    reader.refresh()
    for number in range(0, 700, 7):
        assert np.array_equal(reader.find(key(number)), feature(number))
    assert reader.find(key(700)) is None


def test_two_at_once_find_what_the_other_wrote_after_a_refresh(store: Store) -> None:
    one, two = written(store, range(10)), written(store, range(10, 20))
    assert one.find(key(15)) is None
    one.refresh()
    two.refresh()
    for files in (one, two):
        assert np.array_equal(files.find(key(5)), feature(5))
        assert np.array_equal(files.find(key(15)), feature(15))


def test_what_was_added_is_found_before_it_is_written(store: Store) -> None:
    files = FeatureFiles(store, "text-1", SIZE)
    files.add(key(1), feature(1))
    assert np.array_equal(files.find(key(1)), feature(1))
    assert store.sizes("text-1") == {}


def test_what_waits_to_be_written_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "_FEATURES_PER_FILE", 4)
    files = FeatureFiles(store, "text-1", SIZE)
    for number in range(9):
        files.add(key(number), feature(number))
    assert len([name for name in store.sizes("text-1") if name.endswith(".features")]) == 2


@pytest.mark.parametrize("harm", ["features gone", "features cut", "keys cut"])
def test_damaged_files_are_as_if_they_held_less(store: Store, harm: str) -> None:
    written(store, range(10))
    names = {name.rpartition(".")[2]: f"text-1/{name}" for name in store.sizes("text-1")}
    if harm == "features gone":
        store.remove(names["features"])
    else:
        name = names[harm.split()[0]]
        store.write(name, (store.read(name) or b"")[:-7])
    reader = FeatureFiles(store, "text-1", SIZE)
    reader.refresh()
    last, first = reader.find(key(9)), reader.find(key(0))
    assert last is None
    assert first is None if harm == "features gone" else np.array_equal(first, feature(0))


@pytest.mark.parametrize("damage", ["zeroed", "one bit"])
def test_features_that_are_not_those_that_were_written_are_not_found(
    store: Store, damage: str
) -> None:
    written(store, range(3))
    [name] = [name for name in store.sizes("text-1") if name.endswith(".features")]
    data = bytearray(store.read(f"text-1/{name}") or b"")
    width = len(data) // 3
    data[width : 2 * width] = bytes(width) if damage == "zeroed" else data[width : 2 * width]
    data[width] ^= damage == "one bit"
    store.write(f"text-1/{name}", bytes(data))
    reader = FeatureFiles(store, "text-1", SIZE)
    reader.refresh()
    assert np.array_equal(reader.find(key(0)), feature(0))
    assert reader.find(key(1)) is None
    assert np.array_equal(reader.find(key(2)), feature(2))
