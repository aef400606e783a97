"""The promise, proven from the files: every input row is in exactly one part to be published."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

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
    store: Store, files: Mapping[str, LedgerFile], added: Mapping[str, Collection[ShardEntry]]
) -> tuple[dict[str, str], IdHashes]:
    """Return what is wrong with files to be published, by shard key, and hashes of their ids.

    No fault is the proof. Per shard that is added, from its staged parts: their bytes are those
    that were committed, and their source_row columns hold each of the shard's rows once. Per
    file: its shards hold its rows, by its own footer, from the first to the last. Parts that
    are published already were proven when they were added. Raises OutputError where the store
    refuses to say.
    """
    hashes: dict[str, np.ndarray] = {}
    shards = [(name, entry) for name, entries in added.items() for entry in entries]
    found = in_parallel(lambda shard: _shard_fault(store, *shard, hashes), shards)
    faults = {entry.key: fault for (_, entry), fault in zip(shards, found, strict=True) if fault}
    for name, entries in added.items():
        row = 0
        for entry in files[name].shards:
            row = row + entry.rows if entry.first_row == row else -1
        if row != files[name].rows:
            fault = f"{name} has {files[name].rows} rows, its shards do not hold each once"
            faults |= {entry.key: fault for entry in entries}
    return faults, hashes


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
            file = StoredFile(store, place, parts[place])
            return _hash_ids(_read(file, "post_id")[1]["post_id"])

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


def _shard_fault(
    store: Store, source_file: str, entry: ShardEntry, hashes: dict[str, np.ndarray]
) -> str | None:
    numbers = []
    for tree in layout.TREES:
        place = entry.staged(tree)
        try:
            file = StoredFile(store, place, entry.part(tree).bytes)
            if file.sha256() != entry.part(tree).sha256:
                return f"{place} does not have the bytes that were committed of {source_file}"
            metadata, columns = _read(file, "source_row", "post_id")
        except (OSError, pa.ArrowException) as error:
            return f"{place} cannot be read: {reason_of(error)}"
        fault = _stranger(metadata, source_file, entry, tree)
        if fault:
            return f"{place} {fault}"
        numbers.append(columns["source_row"].to_numpy())
        hashes[place] = _hash_ids(columns["post_id"])
    rows = np.sort(np.concatenate(numbers))
    if not np.array_equal(rows, np.arange(entry.first_row, entry.first_row + entry.rows)):
        return f"{source_file}: its staged parts do not hold each of its rows once"
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


def _read(file: StoredFile, *names: str) -> tuple[pq.FileMetaData, pa.Table]:
    """Return a part's footer and some of its columns."""
    part = pq.ParquetFile(file)
    return part.metadata, part.read(list(names), use_threads=False)
