"""Writing one Parquet part: buffered rows, a staged one's values counted on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.annotate.output.histograms import (
    Histograms,
    count_histograms,
    sum_histograms,
)
from pipelines.annotate.output.ledger import COUNTED, Part
from pipelines.annotate.output.part_file import PartFile
from pipelines.storage.files import OutputError, Store
from pipelines.storage.redaction import reason_of

# Uncompressed bytes of a row group: so much is held, and read at once.
_FLUSH_BYTES = 32 * 1024 * 1024


class PartWriter:
    """One part in the making; without rows it never becomes a file."""

    def __init__(self, store: Store, name: str, schema: pa.Schema) -> None:
        self.schema = schema
        self._store = store
        self._name = name
        self._file: PartFile | None = None
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
    def bytes(self) -> int:
        """About how many bytes the file has, rather too many."""
        return self._buffered + (self._file.bytes if self._file else 0)

    def close(self) -> Part | None:
        """Finish the file, durable on a local disk, and return what it is; None without rows."""
        self._flush()
        if self._file is None or self._writer is None:
            return None
        with self._explained():
            self._writer.close()
        self._file.close()
        return Part(self._rows, self._file.bytes, self._file.sha256)

    def discard(self) -> None:
        """Remove the file. Raises nothing."""
        if self._file is not None:
            with contextlib.suppress(Exception):
                assert self._writer is not None
                self._writer.close()
            self._file.discard()

    def _flush(self) -> None:
        if self._buffer:
            table = pa.concat_tables(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            self._write(table)

    def _write(self, table: pa.Table) -> None:
        with self._explained():
            if self._writer is None:
                self._file = PartFile(self._store, self._name)
                self._writer = pq.ParquetWriter(self._file, self.schema, compression="zstd")
            self._writer.write_table(table)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {self._store.url}/{self._name}: {reason_of(error)}"
            ) from error


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
