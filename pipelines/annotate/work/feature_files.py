"""Feature vectors by the hash of what they were encoded from, in files that never change.

A writer adds a pair of files: the features (float32, one row after the other, each with a checksum
of its key and itself) and, after it, their keys, 16 bytes each. So any number of workers can write
and read at once on any store, and whoever needs the space may remove files at any time: what is
gone, or damaged, is encoded again.
"""

from __future__ import annotations

import datetime
import threading
import uuid
import zlib
from collections import OrderedDict

import numpy as np

from pipelines.storage.files import Store, in_parallel

KEY_BYTES = 16
_KEY = np.dtype(f"S{KEY_BYTES}")
_FEATURES_PER_FILE = 2048
# Rows are read so many at a time: what was encoded together is asked for together.
_ROWS_PER_BLOCK = 256
_BLOCKS_HELD = 16


class FeatureFiles:
    """The features in one folder of a store; safe to use from many threads.

    size: of a feature vector. Holds 24 bytes of memory for each feature that is there.
    """

    def __init__(self, store: Store, folder: str, size: int) -> None:
        self._store = store
        self._folder = folder
        self._row = np.dtype([("feature", "<f4", (size,)), ("checksum", "<u4")])
        self._lock = threading.Lock()
        self._names: list[str] = []
        # Sorted keys, and for each its file's number above its row in the lower 32 bits.
        self._index = np.empty(0, _KEY), np.empty(0, np.int64)
        self._blocks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._added: dict[bytes, np.ndarray] = {}

    def refresh(self) -> None:
        """Take notice of what others have written."""
        with self._lock:
            listed = self._store.sizes(self._folder)
            new = sorted({name for name in listed if name.endswith(".keys")} - {*self._names})
            read = in_parallel(lambda name: self._store.read(f"{self._folder}/{name}"), new)
            for name, data in zip(new, read, strict=True):
                self._take_notice(name, data or b"")

    def find(self, key: bytes) -> np.ndarray | None:
        """Return the feature, float32 (size,), or None where it is not there any more or yet."""
        keys, places = self._index
        at = int(np.searchsorted(keys, key))
        # numpy leaves out the zeros that a key ends with.
        if at == len(keys) or keys[at] != key.rstrip(b"\0"):
            return self._added.get(key)
        name = self._names[places[at] >> 32].removesuffix(".keys")
        block, row = divmod(int(places[at] & 0xFFFFFFFF), _ROWS_PER_BLOCK)
        rows = self._block(name, block)
        if row >= len(rows) or rows["checksum"][row] != _checksum(key, rows["feature"][row]):
            return None
        return rows["feature"][row]

    def add(self, key: bytes, feature: np.ndarray) -> None:
        """Keep a feature, float32 (size,); it is written with others."""
        with self._lock:
            self._added[key] = np.array(feature, np.float32)
        if len(self._added) >= _FEATURES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what was added. Raises OutputError where that cannot be done."""
        with self._lock:
            added, self._added = self._added, {}
            if not added:
                return
            name = f"{datetime.date.today():%Y%m%d}-{uuid.uuid4().hex[:16]}"
            rows = np.empty(len(added), self._row)
            rows["feature"] = np.stack(list(added.values()))
            rows["checksum"] = [
                _checksum(key, feature) for key, feature in zip(added, rows["feature"], strict=True)
            ]
            self._store.write(f"{self._folder}/{name}.features", rows.tobytes(), durable=False)
            keys = b"".join(added)
            self._store.write(f"{self._folder}/{name}.keys", keys, durable=False)
            self._take_notice(f"{name}.keys", keys)

    def _take_notice(self, name: str, data: bytes) -> None:
        """Add a file of keys to the index, which is made anew: others may be searching it."""
        new = np.frombuffer(data[: len(data) // KEY_BYTES * KEY_BYTES], _KEY)
        keys = np.concatenate([self._index[0], new])
        places = np.concatenate([self._index[1], (len(self._names) << 32) + np.arange(len(new))])
        order = np.argsort(keys, kind="stable")
        self._names.append(name)
        self._index = keys[order], places[order]

    def _block(self, name: str, block: int) -> np.ndarray:
        """Rows of a file with their checksums, _ROWS_PER_BLOCK at most; none where it is gone."""
        with self._lock:
            if (name, block) in self._blocks:
                self._blocks.move_to_end((name, block))
                return self._blocks[name, block]
        width = self._row.itemsize
        start = block * _ROWS_PER_BLOCK * width
        path = self._store.full(f"{self._folder}/{name}.features")
        try:
            data = self._store.fs.cat_file(path, start=start, end=start + _ROWS_PER_BLOCK * width)
        except Exception:
            # Whatever is wrong with it, encoding anew is the way out.
            data = b""
        rows = np.frombuffer(data[: len(data) // width * width], self._row)
        with self._lock:
            self._blocks[name, block] = rows
            while len(self._blocks) > _BLOCKS_HELD:
                self._blocks.popitem(last=False)
        return rows


def _checksum(key: bytes, feature: np.ndarray) -> int:
    return zlib.crc32(feature.astype("<f4", copy=False).tobytes(), zlib.crc32(key))
