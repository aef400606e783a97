"""What a child process does with an input file: its footer, its records, its rows.

Tasks for `drf_core.decoding.children`: each gets a message and buffers and answers over the link.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drf_core.decoding.child_messages import Buffer, Link
from pipelines.posts.column_types import (
    FINEST_UNIT,
    is_bytes,
    normal_schema,
    normal_type,
    normalised,
)
from pipelines.posts.input_files import CorruptInputError, identity_without_checksum
from pipelines.posts.record_files import is_records_file, read_records, survey

# A request to an object store of this size costs little more than a smaller one; of a local
# file, what stays in the processor's cache is read fastest.
_BUFFER_BYTES = 4 << 20
_LOCAL_BUFFER_BYTES = 256 << 10
_PIECE_BYTES = 32 << 20
_BATCH_BYTES = 32 << 20
# What a dictionary's values may come to on all rows of a batch.
_MOST_REPEATED_BYTES = 256 << 20

# A footer that claims more rows for each byte of its file is wrong: ids alone take more, however
# they are packed.
_MOST_ROWS_PER_BYTE = 2_000


def read_footer(message: dict[str, Any], buffers: list[Buffer], link: Link) -> None:
    """Answer what a Parquet footer says. size: of its file; the buffer: the footer.

    groups: of each row group its rows and the bytes of each column, uncompressed; the buffer: the
    schema.
    """
    with _described():
        file = pq.ParquetFile(
            pa.BufferReader(pa.py_buffer(buffers[0])), coerce_int96_timestamp_unit=FINEST_UNIT
        )
        metadata = file.metadata
        groups = []
        valued: set[str] = set()
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            leaves = [group.column(i) for i in range(group.num_columns)]
            sizes = {leaf.path_in_schema: leaf.total_uncompressed_size for leaf in leaves}
            groups.append((group.num_rows, sizes))
            for leaf in leaves:
                said = leaf.statistics
                nulls = said.null_count if said is not None and said.has_null_count else -1
                if group.num_rows and nulls != group.num_rows:
                    valued.add(leaf.path_in_schema)
        rows = sum(rows for rows, _ in groups)
        if any(rows < 0 for rows, _ in groups) or rows != metadata.num_rows:
            raise CorruptInputError("its row groups do not add up")
        if rows > _MOST_ROWS_PER_BYTE * message["size"]:
            raise CorruptInputError(f"it claims {rows:,} rows in {message['size']:,} bytes")
        schema = _typed(normal_schema(file.schema_arrow), valued)
    link.send({"groups": groups}, [memoryview(schema.serialize())])


def count_records(message: dict[str, Any], buffers: list[Buffer], link: Link) -> None:
    """Answer how many records a file has, of which types, and how many are not UTF-8."""
    with _opened(message, buffers, link) as file:
        found = survey(file, message["name"])
    said = {"groups": [(found.rows, {"": found.bytes})], "not_utf8": found.not_utf8}
    link.send(said, [memoryview(found.schema.serialize())])


def read_rows(message: dict[str, Any], buffers: list[Buffer], link: Link) -> None:
    """Answer with batches of rows as they lie in the file, then {"end": true}.

    columns: to read. batch_rows: at most so many in a batch. groups: row groups wanted, null for
    all; first: of the rows wanted; end: after their last, null for all. most: bytes of a value
    that are read, by column. The first buffer: the schema, of a file of records. Each answer has
    the row of its first one, and the batch as its buffer.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(buffers[0])) if len(buffers[0]) else None
    with _opened(message, buffers[1:], link) as file, _described():
        for row, batch in _batches(file, message, schema):
            start = max(0, message["first"] - row)
            if start < batch.num_rows:
                rest = batch.slice(start)
                link.send({"row": row + start}, [_as_stream(_dense(rest, message["most"]))])
            if message["end"] is not None and row + batch.num_rows >= message["end"]:
                break
    link.send({"end": True})


def _batches(
    file: Any, message: dict[str, Any], schema: pa.Schema | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    columns, batch_rows = message["columns"], message["batch_rows"]
    if schema is not None:
        row = 0
        for batch in read_records(file, message["name"], schema, columns, batch_rows):
            yield row, batch
            row += batch.num_rows
        return
    # Buffered and not pre-buffered: else a whole column chunk is held in memory.
    parquet = pq.ParquetFile(
        file,
        buffer_size=_LOCAL_BUFFER_BYTES if message["path"] else _BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit=FINEST_UNIT,
    )
    groups = message["groups"]
    row = 0
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        needed = (groups is None or group in groups) and row + metadata.num_rows > message["first"]
        if needed and metadata.num_rows:
            row_bytes = max(1, metadata.total_byte_size // metadata.num_rows)
            first_row = row
            batches = parquet.iter_batches(
                min(batch_rows, max(1, _BATCH_BYTES // row_bytes)),
                row_groups=[group],
                columns=columns,
                use_threads=False,
            )
            try:
                for batch in batches:
                    yield first_row, batch
                    first_row += batch.num_rows
            except MemoryError as error:
                raise MemoryError(
                    f"column {_largest(metadata, columns)!r} of row group {group}"
                ) from error
            if first_row != row + metadata.num_rows:
                raise CorruptInputError(
                    f"row group {group} has {first_row - row} rows, its footer says "
                    f"{metadata.num_rows}"
                )
        row += metadata.num_rows


def _largest(group: pq.RowGroupMetaData, columns: Sequence[str]) -> str:
    """The column of a row group that has the most bytes, of those that are read."""
    leaves = [group.column(index) for index in range(group.num_columns)]
    sizes = {
        name: leaf.total_uncompressed_size
        for name in columns
        for leaf in leaves
        if f"{leaf.path_in_schema}.".startswith(f"{name}.")
    }
    return max(sizes, key=sizes.__getitem__, default="")


def _typed(schema: pa.Schema, valued: set[str]) -> pa.Schema:
    """A schema whose columns without a value have no type: pandas writes float64 for them.

    valued: paths of the columns that may have one.
    """
    return pa.schema(
        [
            field
            if field.name in valued or pa.types.is_nested(field.type)
            else field.with_type(pa.null())
            for field in schema
        ],
        metadata=schema.metadata,
    )


def _dense(batch: pa.RecordBatch, most: dict[str, int]) -> pa.RecordBatch:
    """A batch in its normal types; MemoryError where few bytes make too many of it."""
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in most:
            column = _cut(column, most[name])
        if pa.types.is_dictionary(column.type):
            values = column.dictionary
            longest = values.nbytes if len(values) < 1000 else 0
            if longest * len(column) > _MOST_REPEATED_BYTES and len(column) > 1:
                raise MemoryError
        is_other = normal_type(column.type) != column.type
        if is_other and column.nbytes > _MOST_REPEATED_BYTES and len(column) > 1:
            raise MemoryError
        columns.append(normalised(column))
    return pa.RecordBatch.from_arrays(columns, schema=normal_schema(batch.schema))


def _cut(column: pa.Array, most: int) -> pa.Array:
    """A column without what lies behind its values' first bytes, in whatever they are nested.

    Of texts four times as many are left: so many has a character, and base64 for an image's byte.
    """
    type_ = column.type
    if column.nbytes <= most:
        return column
    if pa.types.is_dictionary(type_):
        values = _cut(column.dictionary, most)
        return pa.DictionaryArray.from_arrays(column.indices, values)
    if pa.types.is_struct(type_):
        # flatten, unlike field, knows of slices.
        parts = [_cut(part, most) for part in column.flatten()]
        return pa.StructArray.from_arrays(parts, fields=list(type_), mask=column.is_null())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
        ends = list(itertools.accumulate(lengths, initial=0))
        values = _cut(column.flatten(), most)
        return type(column).from_arrays(ends, values, type=type_, mask=column.is_null())
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    if type_ == pa.string_view():
        is_text, column = True, column.cast(pa.binary_view())
    elif not is_text and not is_bytes(type_):
        return column
    most *= 4 if is_text else 1
    raw = column.cast(pa.large_binary())
    if (pc.max(pc.binary_length(raw)).as_py() or 0) <= most:
        return raw.cast(type_)
    cut = pc.binary_slice(raw, 0, most)
    if not is_text:
        return cut.cast(type_)
    texts = [None if v is None else v.decode("utf-8", "ignore") for v in cut.to_pylist()]
    return pa.array(texts, type_)


def _as_stream(batch: pa.RecordBatch) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def _opened(message: dict[str, Any], buffers: Sequence[Buffer], link: Link) -> Iterator[Any]:
    """The file: on this disk at `path`, or the buffer it came as, or read by the parent."""
    if message["path"]:
        is_records = is_records_file(message["name"])
        # Arrow's own reading: half the work of going through a file of Python's.
        with open(message["path"], "rb") as opened:
            _check_identity(opened.fileno(), message.get("identity"))
            if is_records:
                yield opened
                return
            with pa.OSFile(f"/dev/fd/{opened.fileno()}", "rb") as same:
                yield same
    elif buffers:
        yield io.BytesIO(buffers[0])
    else:
        file = _ParentsFile(link, message["size"])
        # Parquet's reader has a buffer for each column.
        yield io.BufferedReader(file, _BUFFER_BYTES) if is_records_file(message["name"]) else file


def _check_identity(descriptor: int, identity: str | None) -> None:
    """Raise ESTALE where another file lies there than the one that was looked at."""
    status = os.fstat(descriptor)
    begins = identity_without_checksum(status.st_size, status.st_mtime_ns)
    if identity and not identity.startswith(begins):
        raise OSError(errno.ESTALE, "another file took its place")


class _ParentsFile(io.RawIOBase):
    """A file that the parent reads: credentials stay with it."""

    def __init__(self, link: Link, size: int) -> None:
        self._link = link
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, into: Any) -> int:
        done = 0
        # A piece at a time: the parent, whose memory is not bounded, holds what it reads.
        while size := max(0, min(len(into) - done, self._size - self._position, _PIECE_BYTES)):
            self._link.send({"read": [self._position, size]})
            _, (data,) = self._link.receive()
            into[done : done + len(data)] = data
            self._position += len(data)
            done += len(data)
            if len(data) < size:
                break
        return done


@contextlib.contextmanager
def _described() -> Iterator[None]:
    """Name what is wrong with the content; what the disk refuses keeps its number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise CorruptInputError(str(error)) from error
    except UnicodeDecodeError as error:
        raise CorruptInputError("the name of a column is not UTF-8") from error
    except pa.ArrowException as error:
        if isinstance(error, MemoryError):
            raise
        raise CorruptInputError(str(error)) from error
