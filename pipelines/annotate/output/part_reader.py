"""A part as a file object that is read in few requests."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile

from pipelines.storage.files import Store

# Up to this size a file is one request to an object store.
ONE_REQUEST_BYTES = 16 << 20


class StoredFile(AbstractBufferedFile):
    """A file of a store as Parquet readers want it: a small one is read whole, in one request.

    size: its bytes, as its ledger knows them. Raises OutputError where the store refuses, which
    readers let through: it says nothing of the file's content. FileNotFoundError where there is
    none.
    """

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store = store
        self._name = name
        cache = "all" if size <= ONE_REQUEST_BYTES else "none"
        super().__init__(store.fs, store.full(name), cache_type=cache, size=size)

    def sha256(self) -> str:
        """Return the hash of the bytes that are there, hexadecimal."""
        digest = hashlib.sha256()
        self.seek(0)
        while data := self.read(ONE_REQUEST_BYTES):
            digest.update(data)
        self.seek(0)
        return digest.hexdigest()

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._store.read_range(self._name, start, end)


def read_here(file: StoredFile) -> pq.ParquetFile:
    """Return a part to be read on this thread, if its reading is asked for without threads.

    pyarrow's own may hold the file still when the interpreter ends, which then aborts (exit
    code 134).
    """
    return pq.ParquetFile(file, pre_buffer=False)


def read_rows(file: StoredFile, name: str, value: str) -> pa.Table:
    """Return the rows in which a column of text has a value; other row groups are hardly read."""
    parquet = read_here(file)
    paths = [parquet.schema.column(n).path for n in range(len(parquet.schema))]
    found = [parquet.schema_arrow.empty_table()]
    for group in range(parquet.num_row_groups):
        said = parquet.metadata.row_group(group).column(paths.index(name)).statistics
        if said is None or not said.has_min_max or said.min <= value <= said.max:
            rows = parquet.read_row_group(group, use_threads=False)
            found.append(rows.filter(pc.equal(rows[name], value)))
    return pa.concat_tables(found)
