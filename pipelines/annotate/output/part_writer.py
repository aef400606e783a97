"""Writing one Parquet part: buffered rows, a staged one's values counted on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.annotate.output.histograms import (
    Histograms,
    count_histograms,
    sum_histograms,
)
from pipelines.annotate.output.ledger import COUNTED, Part
from pipelines.annotate.output.part_reader import ONE_REQUEST_BYTES
from pipelines.storage.files import Store, into_folder
from pipelines.storage.retrying import retry

# Uncompressed bytes of a row group: so much is held, and read at once.
_FLUSH_BYTES = 32 * 1024 * 1024


class PartWriter:
    """One part in the making; without rows it never becomes a file.

    On a local disk it grows in its place. For other stores it grows in the temporary folder,
    without a name, and is sent when it is closed: what fails on the way can be sent again as a
    whole, no half part is left in the store, and a killed process leaves nothing here.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema) -> None:
        self.schema = schema
        self._store = store
        self._name = name
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        if table.num_rows == 0:
            return
        self._rows += table.num_rows
        self._buffer.append(table)
        self._buffered += table.nbytes
        if self._buffered > _FLUSH_BYTES:
            self._flush()

    @property
    def size(self) -> int:
        """About how many bytes the file has, rather too many."""
        return self._buffered + (self._file.tell() if self._file else 0)

    def close(self) -> Part | None:
        """Finish the file, durable on a local disk, and return what it is; None without rows."""
        self._flush()
        if self._file is None or self._writer is None:
            return None
        with self._store.explained("write", self._name), self._file as file:
            self._writer.close()
            file.flush()
            size = file.tell()
            part = Part(self._rows, size, self._hash(file))
            if self._store.local:
                os.fsync(file.fileno())
            else:
                retry(lambda: self._send(file, size))
        self._store.sync(self._name)
        return part

    def discard(self) -> None:
        """Remove the file. Raises nothing."""
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()
            with contextlib.suppress(Exception):
                self._store.remove(self._name)

    def _flush(self) -> None:
        if self._buffer:
            table = pa.concat_tables(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            self._write(table)

    def _write(self, table: pa.Table) -> None:
        with self._store.explained("write", self._name):
            if self._file is None:
                self._file = self._open()
                self._writer = pq.ParquetWriter(self._file, self.schema, compression="zstd")
            assert self._writer is not None
            self._writer.write_table(table)

    def _open(self) -> IO[bytes]:
        if not self._store.local:
            return tempfile.TemporaryFile()
        # Not the store's own open(): fsspec's local files hide their descriptor from fsync.
        return into_folder(self._store.full(self._name), lambda path: open(path, "x+b"))

    def _hash(self, file: IO[bytes]) -> str:
        digest = hashlib.sha256()
        file.seek(0)
        while data := file.read(ONE_REQUEST_BYTES):
            digest.update(data)
        return digest.hexdigest()

    def _send(self, file: IO[bytes], size: int) -> None:
        fs, path = self._store.fs, self._store.full(self._name)
        file.seek(0)
        if size <= ONE_REQUEST_BYTES:
            fs.pipe_file(path, file.read())
            return
        with fs.open(path, "wb") as target:
            shutil.copyfileobj(file, target, ONE_REQUEST_BYTES)


class CountingPartWriter(PartWriter):
    """A part of a shard in the making.

    counts: values of the counted columns; histograms: of annotations; both once it is closed.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema) -> None:
        super().__init__(store, name, schema)
        self.counts: dict[str, dict[str, int]] = {c: {} for c in schema.names if c in COUNTED}
        self.histograms = Histograms()
        self._last_row = -1

    def add(self, table: pa.Table) -> None:
        """Add rows; raise ValueError where source_row does not rise."""
        for row in table["source_row"].to_pylist():
            if row <= self._last_row:
                raise ValueError(f"source_row {row} after {self._last_row}: rows out of order")
            self._last_row = row
        super().add(table)

    def _write(self, table: pa.Table) -> None:
        for column, counts in self.counts.items():
            for item in pc.value_counts(table[column]).to_pylist():
                if item["values"] is not None:
                    counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
        if "confidence" in table.column_names:
            self.histograms = sum_histograms([self.histograms, count_histograms(table)])
        super()._write(table)
