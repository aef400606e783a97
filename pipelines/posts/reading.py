"""Posts from a file in small batches: only the rows and columns that are needed.

Memory is bounded by the batch, not by Parquet's row group: column chunks are streamed page by
page, and one pass over a row group serves all shards that lie in it. A file of records is one
row group, read from its first record on.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipelines.posts.files import CorruptInputError
from pipelines.posts.records import is_records_file, read_records
from pipelines.storage.retrying import retry
from schemas.posts import PostsLayout, coerce_posts

# A request to an object store of this size costs little more than a smaller one; of a local
# file, what stays in the processor's cache is read fastest.
_BUFFER_BYTES = 4 << 20
_LOCAL_BUFFER_BYTES = 256 << 10
_BATCH_BYTES = 32 << 20


class RowRange(Protocol):
    """Rows of one input file that are wanted together; a shard is one.

    first_row: 0-based row of the file. row_groups: indices of those that hold the rows.
    """

    @property
    def source_file(self) -> str: ...  # noqa: D102

    @property
    def first_row(self) -> int: ...  # noqa: D102

    @property
    def rows(self) -> int: ...  # noqa: D102

    @property
    def row_groups(self) -> tuple[int, ...]: ...  # noqa: D102


_Range = TypeVar("_Range", bound=RowRange)


class _WatchedFile:
    """A file that remembers what its reads raised.

    Arrow raises OSError for damaged pages and failing disks alike; what this file raised
    itself is a passing fault of the store, all else is the file's content.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return retry(lambda: self._file.read(size))
        except Exception as error:
            self.error = error
            raise


def read_unit_rows(
    fs: fsspec.AbstractFileSystem,
    path: str,
    shards: Sequence[_Range],
    layout: PostsLayout,
    batch_rows: int = 128,
    schema: pa.Schema | None = None,
) -> Iterator[tuple[_Range, int, pa.RecordBatch]]:
    """Yield (shard, source row of the first post, posts) over shards of one file in one pass.

    path: as fs knows it. shards: of this file, in row order; rows between them are passed
    over. batch_rows: at most so many posts in a batch, fewer where rows are large. Batches
    are coerced (schemas.posts.coerce_posts) and lie in one shard each. schema: of a file of
    records, as `read_footer` found it.
    Raises CorruptInputError where a page is damaged or rows are missing; what was yielded
    before is sound. What the store raises passes through.
    """
    shards = [shard for shard in shards if shard.rows]
    if not shards:
        return
    end = shards[-1].first_row + shards[-1].rows
    where = f"{shards[0].source_file}: rows {shards[0].first_row} to {end - 1}"
    missing = sum(shard.rows for shard in shards)
    groups = {group for shard in shards for group in shard.row_groups}
    batches = read_batches(fs, path, where, layout.read, batch_rows, schema, groups)
    with contextlib.closing(batches):
        for row, batch in batches:
            for shard in shards:
                first = max(row, shard.first_row)
                last = min(row + batch.num_rows, shard.first_row + shard.rows)
                if first < last:
                    missing -= last - first
                    yield shard, first, coerce_posts(batch.slice(first - row, last - first), layout)
            if row + batch.num_rows >= end:
                break
    if missing:
        raise CorruptInputError(f"{where}: {missing} of them are not in the file; write it again")


def read_batches(
    fs: fsspec.AbstractFileSystem,
    path: str,
    where: str,
    columns: Sequence[str],
    batch_rows: int,
    schema: pa.Schema | None = None,
    row_groups: Collection[int] | None = None,
) -> Generator[tuple[int, pa.RecordBatch], None, None]:
    """Yield (source row of the first row, rows as they lie in the file).

    where: what messages call the file or its part. schema: of a file of records, as
    `read_footer` found it. row_groups: those wanted, None for all.
    Raises CorruptInputError, and what the store raises.
    """
    if is_records_file(path):
        assert schema is not None
        row = 0
        for batch in read_records(fs, path, where, schema, columns, batch_rows):
            yield row, batch
            row += batch.num_rows
        return
    with _opened(fs, path) as file:
        yield from _row_group_batches(file, where, row_groups, columns, batch_rows)


def _row_group_batches(
    file: _WatchedFile | pa.NativeFile,
    where: str,
    wanted: Collection[int] | None,
    columns: Sequence[str],
    batch_rows: int,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with _explained(file, where):
        # Buffered and not pre-buffered: else a whole column chunk is held in memory.
        parquet = pq.ParquetFile(
            file,
            buffer_size=_BUFFER_BYTES if isinstance(file, _WatchedFile) else _LOCAL_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    row = 0
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        if (wanted is None or group in wanted) and metadata.num_rows:
            row_bytes = max(1, metadata.total_byte_size // metadata.num_rows)
            batches = parquet.iter_batches(
                min(batch_rows, max(1, _BATCH_BYTES // row_bytes)),
                row_groups=[group],
                columns=list(columns),
                use_threads=False,
            )
            first_row = row
            while True:
                with _explained(file, where):
                    batch = next(batches, None)
                if batch is None:
                    break
                yield first_row, batch
                first_row += batch.num_rows
        row += metadata.num_rows


@contextlib.contextmanager
def _opened(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[_WatchedFile | pa.NativeFile]:
    if type(fs) is LocalFileSystem:
        # Arrow's own reading: half the work of going through a file of Python's.
        with pa.OSFile(path) as native:
            yield native
        return
    # Columns are read in turns, which a store's read-ahead would answer by reading twice.
    options = {"cache_type": "none"} if fs.async_impl else {}
    with fs.open(path, "rb", **options) as file:
        if fs.async_impl and file.size <= _BUFFER_BYTES:
            # Footer and columns of a small file in one request.
            yield _WatchedFile(io.BytesIO(retry(file.read)))
        else:
            yield _WatchedFile(file)


@contextlib.contextmanager
def _explained(file: _WatchedFile | pa.NativeFile, what: str) -> Iterator[None]:
    """Turn what Arrow says of damaged content into one line; let the store's faults pass."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if _from_store(file, error):
            raise
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CorruptInputError(f"{what} cannot be read ({said}); write the file again") from error


def _from_store(file: _WatchedFile | pa.NativeFile, error: Exception) -> bool:
    """Whether reading the file failed, rather than making sense of what was read."""
    if isinstance(file, _WatchedFile):
        return file.error is not None
    # Arrow passes on the number of what the system refused; damaged pages have none.
    return isinstance(error, OSError) and error.errno is not None
