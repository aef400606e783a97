"""Posts from a file in small batches, parsed in a child process: only the rows that are needed.

Memory is bounded by the batch, not by Parquet's row group: column chunks are streamed page by
page, and one pass over a row group serves all shards that lie in it. A file of records is one
row group, read from its first record on.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from drf_core.decoding.children import ChildLostError, Children, Limits, TaskRaisedError
from pipelines.posts.input_files import CorruptInputError, InputChangedError, RowRange
from pipelines.posts.record_files import is_records_file
from pipelines.storage.backends import content_checksum
from pipelines.storage.retrying import retry
from schemas.posts import MAX_ID_CHARACTERS, MAX_TEXT_CHARACTERS, PostsLayout, coerce_posts

# A file that an object store gives in one request comes whole.
_WHOLE_BYTES = 4 << 20

# Rows of a batch are this many times fewer where a batch could not be read.
_FEWER = 16

_LIMITS = Limits(seconds=60.0, memory=768 << 20)
# For a row that is not read in those by itself. pyarrow holds a value three times, and whatever
# lies in one page or dictionary with it; more would not leave a process of 2 GB room for a model.
_LARGE_LIMITS = Limits(seconds=60.0, memory=1280 << 20)
_READERS = Children()
# Footers come many at once from a store; a child reads one in some milliseconds.
_FOOTERS_AT_ONCE = threading.Semaphore(2)
_TASKS = "pipelines.posts.parsing"


_Range = TypeVar("_Range", bound=RowRange)


def read_unit_rows(
    fs: fsspec.AbstractFileSystem,
    path: str,
    shards: Sequence[_Range],
    layout: PostsLayout,
    batch_rows: int = 128,
    schema: pa.Schema | None = None,
    identity: str | None = None,
    max_image_bytes: int | None = None,
) -> Iterator[tuple[_Range, int, pa.RecordBatch]]:
    """Yield (shard, source row of the first post, posts) over shards of one file in one pass.

    path: as fs knows it. shards: of this file, in row order; rows between them are passed
    over. batch_rows: at most so many posts in a batch, fewer where rows are large. Batches
    are coerced (schemas.posts.coerce_posts) and lie in one shard each. schema: of a file of
    records, as `read_footer` found it. identity: of the file as it was looked at.
    max_image_bytes: above which an image is no image any more; its beginning is read, as that of
    a text or id that is too long.
    Raises CorruptInputError where a page is damaged or rows are missing, InputChangedError where
    another file lies there by now; what was yielded before is sound. What the store raises passes
    through.
    """
    shards = [shard for shard in shards if shard.rows]
    if not shards:
        return
    end = shards[-1].first_row + shards[-1].rows
    where = f"{shards[0].source_file}: rows {shards[0].first_row} to {end - 1}"
    missing = sum(shard.rows for shard in shards)
    groups = {group for shard in shards for group in shard.row_groups}
    most = {layout.columns.post_id: 4 * (MAX_ID_CHARACTERS + 1)}
    if layout.columns.text is not None:
        most[layout.columns.text] = MAX_TEXT_CHARACTERS
    if max_image_bytes is not None:
        images = (layout.columns.image, layout.columns.image_uri)
        most |= {name: max_image_bytes + 1 for name in images if name is not None}
    most = {name: size for name, size in most.items() if name not in _names(layout.keep)}
    batches = read_batches(
        fs,
        path,
        where,
        layout.read,
        batch_rows,
        schema,
        groups,
        shards[0].first_row,
        most,
        identity,
        end,
    )
    with contextlib.closing(batches):
        for row, batch in batches:
            for shard in shards:
                first = max(row, shard.first_row)
                last = min(row + batch.num_rows, shard.first_row + shard.rows)
                if first < last:
                    missing -= last - first
                    yield shard, first, coerce_posts(batch.slice(first - row, last - first), layout)
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
    first: int = 0,
    most: Mapping[str, int] | None = None,
    identity: str | None = None,
    end: int | None = None,
) -> Generator[tuple[int, pa.RecordBatch], None, None]:
    """Yield (source row of the first row, rows as they lie in the file), from `first` to `end`.

    Read to its end it keeps its child for the next file; closed before, it takes it along.

    where: what messages call the file or its part. schema: of a file of records, as
    `read_footer` found it. row_groups: those wanted, None for all. most: bytes of a
    value that are read, by column; of a text four times as many.
    A batch that cannot be read is read in smaller ones: a dictionary may hold few bytes that
    many rows are made of. A row that is not read by itself may take more memory.
    Raises CorruptInputError, InputChangedError unless the file has the
    identity that is given, and what the store raises.
    """
    message = {
        "columns": list(dict.fromkeys(columns)),
        "groups": None if row_groups is None else sorted(row_groups),
        "most": dict(most or {}),
        "identity": identity,
        "end": end,
    }
    given = memoryview(schema.serialize()) if schema is not None and is_records_file(path) else b""
    limits = _LIMITS
    while True:
        asked = {**message, "first": first, "batch_rows": batch_rows}
        try:
            answers = _answers("read_rows", fs, path, asked, [given], limits)
            with contextlib.closing(answers):
                for answer, buffers in answers:
                    if "end" in answer:
                        return
                    batch = _batch(buffers[0], where)
                    yield answer["row"], batch
                    first = answer["row"] + batch.num_rows
        except _Unreadable as error:
            if error.lasting or limits is _LARGE_LIMITS:
                at = f"at row {first}, " if limits is _LARGE_LIMITS else ""
                raise CorruptInputError(
                    f"{where} cannot be read ({at}{error}); write the file again"
                ) from error
            if batch_rows == 1:
                limits = _LARGE_LIMITS
            batch_rows = max(1, batch_rows // _FEWER)
        except OSError as error:
            # The second is what s3fs raises for an object that was overwritten.
            if error.errno not in (errno.ESTALE, errno.EBUSY):
                raise
            raise InputChangedError(f"{where} changed while they were read") from error


def _names(fields: Sequence[pa.Field]) -> set[str]:
    return {field.name for field in fields}


def parse(
    task: str, fs: fsspec.AbstractFileSystem, path: str, message: dict[str, Any], shown: str
) -> tuple[dict[str, Any], list[Any]]:
    """Return the one answer of a task of pipelines.posts.parsing that looks at a whole file.

    Raises CorruptInputError, and what the store raises.
    """
    try:
        # To its end: closed before, it would take its child along, one for each file.
        [answer] = _answers(task, fs, path, message, [])
        return answer
    except _Unreadable as error:
        raise CorruptInputError(f"{shown} cannot be read ({error}); write it again") from error


def parse_buffer(
    task: str, message: dict[str, Any], buffer: bytes
) -> tuple[dict[str, Any], list[Any]]:
    """Return the one answer of a task that looks at a buffer. Raises CorruptInputError."""
    try:
        with _explained(_LIMITS), _FOOTERS_AT_ONCE, _READERS.borrow() as child:
            child.ask(f"{_TASKS}:{task}", message, [buffer], _LIMITS)
            return child.answer()
    except _Unreadable as error:
        raise CorruptInputError(str(error)) from error


class _Unreadable(Exception):
    """A child could not read something. lasting: whether fewer rows at once will not help."""

    def __init__(self, why: str, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


def _answers(
    task: str,
    fs: fsspec.AbstractFileSystem,
    path: str,
    message: dict[str, Any],
    buffers: Sequence[Any],
    limits: Limits = _LIMITS,
) -> Generator[tuple[dict[str, Any], list[Any]], None, None]:
    """Yield a task's answers, and read for it what lies in a store."""
    with contextlib.ExitStack() as stack:
        whole: list[Any] = []
        file, size = None, 0
        if type(fs) is not LocalFileSystem:
            # Columns are read in turns, which a store's read-ahead would answer by reading twice.
            options = {"cache_type": "none"} if fs.async_impl else {}
            file = stack.enter_context(fs.open(path, "rb", **options))
            opened = content_checksum(getattr(file, "details", {}))
            if message.get("identity") and opened not in (None, message["identity"]):
                raise OSError(errno.ESTALE, "another object took its place")
            size = file.seek(0, 2)
            file.seek(0)
            if size <= _WHOLE_BYTES:
                whole = [retry(file.read)]
        local = path if file is None else ""
        asked = {**message, "path": local, "name": path, "size": size}
        stack.enter_context(_explained(limits))
        child = stack.enter_context(_READERS.borrow())
        child.ask(f"{_TASKS}:{task}", asked, [*buffers, *whole], limits)
        done = False
        try:
            while True:
                answer, found = child.answer()
                if "read" in answer:
                    start, length = answer["read"]
                    child.tell({}, [retry(partial(_range, file, start, length))])
                    continue
                done = "end" in answer or "groups" in answer
                yield answer, found
                if done:
                    return
        except TaskRaisedError:
            done = True
            raise
        finally:
            # What it still has to say would be taken for the answer to the next task.
            child.lost |= not done


def _range(file: Any, start: int, length: int) -> bytes:
    file.seek(start)
    return bytes(file.read(length))


def _batch(buffer: Any, where: str) -> pa.RecordBatch:
    """A batch as a child sent it, its own bounds checked before anything relies on them."""
    try:
        (batch,) = pa.ipc.open_stream(pa.py_buffer(buffer))
        batch.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise _Unreadable(str(error).splitlines()[0][:200]) from error
    return batch


@contextlib.contextmanager
def _explained(limits: Limits) -> Iterator[None]:
    """Turn what a child's end says of the content into one line; let the machine's faults pass."""
    try:
        yield
    except TaskRaisedError as error:
        if error.type in ("CorruptInputError", "ValueError", "KeyError", "IndexError", "TypeError"):
            raise _Unreadable(error.text) from error
        if error.number is not None:
            raise OSError(error.number, error.text) from error
        raise _Unreadable(f"{error.type}: {error.text}") from error
    except ChildLostError as error:
        why = {
            "timed_out": f"it takes more than {limits.seconds:.0f} seconds",
            "memory": f"{error.what or 'it'} takes more than {limits.memory >> 20:,} MB of memory: "
            "leave its largest values out",
        }.get(error.why, "its reader crashed")
        raise _Unreadable(why, lasting=error.why == "timed_out") from error
