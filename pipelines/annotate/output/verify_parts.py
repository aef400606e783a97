"""The promise, proven from the files: every input row is in exactly one part to be published."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.annotate.output.ledger import LedgerFile, Part, ShardEntry
from pipelines.annotate.output.part_reader import StoredFile, read_here
from pipelines.storage.files import OutputError, Store, in_parallel
from pipelines.storage.redaction import reason_of

# By place: a hash of every id in a part.
IdHashes = Mapping[str, np.ndarray]

# A row's number is its file's place among its part's files, and the row there.
_ROW_BITS = 40

Shards = Sequence[tuple[str, ShardEntry]]


class RowRanges:
    """The rows that some shards hold. shards: each with the source file that it is of."""

    def __init__(self, shards: Shards) -> None:
        self._files = pa.array(sorted({name for name, _ in shards}), pa.string())
        places = {name: place for place, name in enumerate(self._files.to_pylist())}
        ranges = sorted(
            ((places[name] << _ROW_BITS) + shard.first_row, shard.rows)
            for name, shard in shards
            if shard.rows
        )
        self._starts = np.array([start for start, _ in ranges], np.int64)
        self._rows = np.array([rows for _, rows in ranges], np.int64)

    def holds(self, table: pa.Table) -> np.ndarray:
        """Return for each row of a part whether it is one of them."""
        numbers = self._numbers(table)
        at = np.searchsorted(self._starts, numbers, "right") - 1
        return (at >= 0) & (numbers < (self._starts + self._rows)[at])

    def are(self, tables: Iterable[pa.Table]) -> bool:
        """Whether tables of source_file and source_row hold each of them once, and no other."""
        numbers = np.sort(np.concatenate([self._numbers(table) for table in tables]))
        wanted = [np.arange(s, s + n) for s, n in zip(self._starts, self._rows, strict=True)]
        return np.array_equal(numbers, np.concatenate([np.empty(0, np.int64), *wanted]))

    def _numbers(self, table: pa.Table) -> np.ndarray:
        places = pc.fill_null(pc.index_in(table["source_file"], value_set=self._files), -1)
        rows = table["source_row"].to_numpy()
        return (places.to_numpy().astype(np.int64) << _ROW_BITS) + rows


def file_fault(name: str, file: LedgerFile) -> str | None:
    """Return what is wrong where a file's shards do not hold its rows from first to last."""
    row = 0
    for shard in file.shards:
        row = row + shard.rows if shard.first_row == row else -1
    if row == file.rows:
        return None
    return f"{name} has {file.rows} rows, its shards do not hold each once"


def prove_part(store: Store, places: Mapping[str, Part], shards: Shards) -> IdHashes:
    """Read a part back; raise OutputError unless it holds each row of its shards once.

    places: of its files, by place. Returns hashes of their ids.
    """
    tables, hashes = [], {}
    for place, part in places.items():
        with open_part(store, place, part) as file:
            columns = ["source_file", "source_row", "post_id"]
            tables.append(file.read(columns, use_threads=False))
        hashes[place] = _hash_ids(tables[-1]["post_id"])
    if not RowRanges(shards).are(tables):
        raise OutputError(f"{store.url}/{next(iter(places))} does not hold each of its rows once")
    return hashes


@contextlib.contextmanager
def open_part(store: Store, place: str, part: Part) -> Iterator[pq.ParquetFile]:
    """Open a part; raise OutputError where it cannot be read, or its bytes are others."""
    with _explained(store, place):
        file = StoredFile(store, place, part.bytes)
        if file.sha256() != part.sha256:
            raise OSError("its bytes are not those that were written")
        yield read_here(file)


def count_duplicate_ids(store: Store, parts: Mapping[str, Part], known: IdHashes) -> int:
    """Return how many posts have an id that had already occurred in these parts.

    parts: by place. known: the hashes of parts that need not be read again. Told
    by 64-bit hashes, 8 bytes a post: of a billion distinct ids, one pair may look alike.
    Raises OutputError where a part cannot be read.
    """

    def hashes_of(place: str) -> np.ndarray:
        if place in known:
            return known[place]
        with _explained(store, place):
            file = StoredFile(store, place, parts[place].bytes)
            return _hash_ids(read_here(file).read(["post_id"], use_threads=False)["post_id"])

    seen = np.concatenate([np.empty(0, np.int64), *in_parallel(hashes_of, parts)])
    seen.sort()
    return int(np.count_nonzero(seen[1:] == seen[:-1]))


def read_schema(store: Store, place: str) -> pa.Schema:
    """Return a part's schema; raises OutputError where it cannot be read."""
    with _explained(store, place), store.fs.open(store.full(place), "rb") as file:
        return pq.read_schema(file)


@contextlib.contextmanager
def _explained(store: Store, place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{store.url}/{place} cannot be read: {reason_of(error)}; "
            "delete it, its posts are annotated again"
        ) from error


def _hash_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Return a hash per post that has an id; it holds within this process."""
    ids = column.drop_null()
    values = (hash(value) for chunk in ids.chunks for value in chunk.to_pylist())
    return np.fromiter(values, np.int64, len(ids))
