"""The promise, proven from the files: every input row is in exactly one published part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import LedgerFile, ShardEntry
from pipelines.annotate.output.part_file import StoredFile
from pipelines.storage.files import OutputError, Store, in_parallel
from pipelines.storage.redaction import reason_of

# By place: a hash of every id in a part.
IdHashes = Mapping[str, np.ndarray]


def find_faults(
    store: Store, partition: str, files: Mapping[str, LedgerFile]
) -> tuple[dict[str, str], IdHashes]:
    """Return what is wrong with published files, by source_file, and the hashes of their ids.

    No fault is the proof. Per file: the rows in the footers of its parts are the rows in its
    own footer, and the parts' source_row columns hold each of its rows once. Raises
    OutputError where the store refuses to say.
    """
    hashes: dict[str, np.ndarray] = {}
    faults = in_parallel(lambda name: _fault(store, partition, name, files[name], hashes), files)
    return {name: fault for name, fault in zip(files, faults, strict=True) if fault}, hashes


def count_duplicate_ids(store: Store, parts: Mapping[str, int], known: IdHashes) -> int:
    """Return how many posts have an id that had already occurred in these parts.

    parts: their bytes, by place. known: the hashes of parts that need not be read again. Told
    by 64-bit hashes, 8 bytes a post: of a billion distinct ids, one pair may look alike.
    Raises OutputError where a part cannot be read.
    """

    def hashes_of(place: str) -> np.ndarray:
        if place in known:
            return known[place]
        with _explained(store, place):
            return _hash_ids(_read(store, place, parts[place], "post_id")[1]["post_id"])

    seen = np.concatenate([np.empty(0, np.int64), *in_parallel(hashes_of, parts)])
    seen.sort()
    return int(np.count_nonzero(seen[1:] == seen[:-1]))


def read_schema(store: Store, place: str) -> pa.Schema:
    """Return a part's schema; raises OutputError where it cannot be read."""
    with _explained(store, place), store.fs.open(store.full(place), "rb") as file:
        return pq.read_schema(file)


def _hash_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Return a hash per post that has an id; it holds within this process."""
    ids = column.drop_null()
    values = (hash(value) for chunk in ids.chunks for value in chunk.to_pylist())
    return np.fromiter(values, np.int64, len(ids))


@contextlib.contextmanager
def _explained(store: Store, place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{store.url}/{place} cannot be read: {reason_of(error)}; "
            "delete it, its posts are annotated again"
        ) from error


def _fault(
    store: Store,
    partition: str,
    source_file: str,
    file: LedgerFile,
    hashes: dict[str, np.ndarray],
) -> str | None:
    rows = 0
    numbers = []
    for tree in layout.TREES:
        for entry in file.shards:
            place = layout.in_partition(tree, partition, entry.name)
            try:
                size = entry.part(tree).bytes
                metadata, columns = _read(store, place, size, "source_row", "post_id")
            except (OSError, pa.ArrowException) as error:
                return f"{place} cannot be read: {reason_of(error)}"
            fault = _stranger(metadata, source_file, entry, tree)
            if fault:
                return f"{place} {fault}"
            rows += metadata.num_rows
            numbers.append(columns["source_row"].to_numpy())
            hashes[place] = _hash_ids(columns["post_id"])
    if rows != file.rows:
        return f"{source_file} has {file.rows} rows, its published parts have {rows}"
    found = np.sort(np.concatenate(numbers)) if numbers else np.empty(0, np.int64)
    if not np.array_equal(found, np.arange(file.rows)):
        return f"{source_file}: its published parts do not hold each of its rows once"
    return None


def _stranger(
    metadata: pq.FileMetaData, source_file: str, entry: ShardEntry, tree: str
) -> str | None:
    written = metadata.metadata or {}
    if written.get(b"drf.source_file") != source_file.encode():
        return f"is no part of {source_file}"
    if written.get(b"drf.key") != entry.key.encode():
        return f"is not the part that was committed of {source_file}"
    if metadata.num_rows != entry.part(tree).rows:
        return f"has {metadata.num_rows} rows, {entry.part(tree).rows} were committed"
    return None


def _read(store: Store, place: str, size: int, *names: str) -> tuple[pq.FileMetaData, pa.Table]:
    """Return a part's footer and some of its columns. size: its bytes."""
    part = pq.ParquetFile(StoredFile(store, place, size))
    return part.metadata, part.read(list(names), use_threads=False)
