"""Input files: what the user's paths name, what the footers say, what identifies a content."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines.posts.column_types import of_records
from pipelines.posts.date_folders import DateFolders
from pipelines.posts.find import find_files, info_of, read_range, tell_skipped
from pipelines.posts.input_files import (
    CorruptInputError,
    FailedFile,
    InputFile,
    RowGroup,
    identity_without_checksum,
)
from pipelines.posts.kinds import kind_of
from pipelines.posts.names import as_text, check_names, is_text, name_of, once_each
from pipelines.posts.reading import parse, parse_buffer
from pipelines.posts.record_files import is_records_file
from pipelines.storage.backends import content_checksum, open_url
from pipelines.storage.files import in_parallel
from pipelines.storage.redaction import reason_of, redact
from schemas.errors import DRFError, SchemaError, UsageError
from schemas.missing_columns import describe_missing
from schemas.posts import ROLES, PostColumns, check_posts_schema, fits_role

_Result = TypeVar("_Result")

# One read of this size gets most footers whole.
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class InputListing:
    """What the input paths name.

    roots: per input path, the URL below which it looked: the folder itself, the folder
    before a glob's first wildcard, or the file itself. kept: fields of the kept columns, by
    source_file.
    """

    files: tuple[InputFile, ...]
    failed: tuple[FailedFile, ...]
    warnings: tuple[str, ...]
    roots: tuple[str, ...]
    kept: Mapping[str, tuple[pa.Field, ...]]


@dataclass(frozen=True)
class Footer:
    """What a file says of its rows: Parquet in its footer, records when they are counted.

    identity: of the file's content: the store's checksum or etag where it has one, else size,
    modification time and a hash of the footer. schema: the file's columns. groups: of each row
    group its rows, and the bytes of each column (nested ones by their leaves) or, as "", of all,
    uncompressed. not_utf8: records that had to be repaired.
    """

    identity: str
    schema: pa.Schema
    groups: tuple[tuple[int, Mapping[str, int]], ...]
    not_utf8: int = 0

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(rows for rows, _ in self.groups)

    def row_groups(self, columns: Sequence[str]) -> tuple[RowGroup, ...]:
        """The row groups, with the bytes of these columns; a file of records is one."""
        # A nested column's leaves are named "image.bytes", "image.path".
        prefixes = tuple(f"{column}." for column in columns)
        return tuple(
            RowGroup(
                rows, sum(n for leaf, n in sizes.items() if f"{leaf}.".startswith((".", *prefixes)))
            )
            for rows, sizes in self.groups
        )


def list_inputs(
    paths: Sequence[str],
    columns: PostColumns = PostColumns(),
    keep: Sequence[str] = (),
    output: str | None = None,
    option: str = "--input",
    dates: DateFolders | None = None,
) -> InputListing:
    """Return the input files that paths name: files, folders or globs on any fsspec URL.

    A folder means every *.parquet below it, or where it has none its files of records (CSV,
    JSON Lines, Avro), leaving out names that start with "." or "_".
    A file that cannot be read, is empty, or whose columns do not fit is a failed file.
    option: what gave the paths, for messages. dates: folders that stand for partitions.
    Raises UsageError where a path is missing, a folder or glob names no file, two inputs
    would have the same source_file, a hive key is a column's name, no file has a column that
    was mapped or is kept, or input and output lie in each other.
    """
    if not paths:
        raise UsageError(f"{option} names nothing")
    listed: dict[str, tuple[str, str]] = {}
    infos: dict[str, Mapping[str, Any]] = {}
    roots: list[str] = []
    left_out: set[str] = set()
    skipped: set[str] = set()
    for path in paths:
        root, named_there, hidden = find_files(path, output, option, skipped)
        roots.append(root)
        left_out.update(hidden)
        for url, name, info in named_there:
            listed.setdefault(url, name_of(url, name, dates))
            if info is not None:
                infos[url] = info
    named, warnings = once_each(listed)
    check_names(named, keep)
    looked_at = for_each_input(
        lambda url: _look_at(url, infos.get(url), *named[url], columns, keep), named
    )
    _check_columns([one for one in looked_at if one.counts], columns, keep, option)
    looked_at.sort(key=lambda one: one.file.source_file)
    readable = tuple(one.file for one in looked_at if isinstance(one.file, InputFile))
    return InputListing(
        files=readable,
        failed=tuple(one.file for one in looked_at if isinstance(one.file, FailedFile)),
        warnings=(
            *warnings,
            *(f"{f.source_file} has no rows" for f in readable if f.rows == 0),
            *(f"{f} is left out: its name begins with '{f[0]}'" for f in sorted(left_out)),
            *_tell_not_utf8(looked_at),
            *tell_skipped(sorted(skipped)),
        ),
        roots=tuple(dict.fromkeys(roots)),
        kept={one.file.source_file: one.keep for one in looked_at},
    )


def _tell_not_utf8(looked_at: Sequence[_LookedAt]) -> list[str]:
    """One warning of all files of which something is read as U+FFFD."""
    found = [one for one in looked_at if one.not_utf8]
    if not found:
        return []
    records = sum(one.not_utf8 for one in found)
    return [
        f"{records} records of {found[0].file.source_file}"
        + (f" and {len(found) - 1} other files" if found[1:] else "")
        + " have bytes that are no UTF-8, read as U+FFFD; write them as UTF-8"
    ]


def for_each_input(function: Callable[[str], _Result], urls: Collection[str]) -> list[_Result]:
    """Return function(url) for input files, in order; many at once where a store answers slowly.

    A disk answers at once: more threads would only wait for each other, each with a child process.
    """
    return in_parallel(function, urls, workers=16 if any("://" in url for url in urls) else 2)


def input_gone(url: str) -> bool:
    """Whether an input file is not there any more; OSError and the like where nobody knows."""
    fs, path = open_url(url)
    try:
        info_of(fs, path)
    except FileNotFoundError:
        return True
    return False


def checksum_identity(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """Return the identity of a file whose store has a checksum of it, without reading it."""
    return content_checksum(info_of(fs, path))


def read_footer(
    fs: fsspec.AbstractFileSystem,
    path: str,
    info: Mapping[str, Any] | None = None,
    columns: PostColumns | None = None,
) -> Footer:
    """Return what a file says of its rows, and the identity of its content.

    info: what a listing said of the file, where it was listed just now. columns: those whose ids
    and texts are text in a file of records, where a number among them gives all another type.
    Raises FileNotFoundError, or CorruptInputError where there is no footer to be read, or a
    record that is none.
    """
    info = info_of(fs, path) if info is None else info
    size = int(info["size"])
    shown = redact(fs.unstrip_protocol(path)) if "://" in path else path
    if size == 0:
        raise CorruptInputError(f"{shown} is empty (0 bytes); write it again")
    tail = read_range(fs, path, max(0, size - _TAIL_BYTES), size)
    if is_records_file(path):
        said = parse("count_records", fs, path, {}, shown)
        found = _footer(_identity(fs, path, info, tail), *said)
        return dataclasses.replace(found, schema=_with_texts(found.schema, columns))
    if size < 12 or tail[-4:] != b"PAR1":
        kind = kind_of(tail if len(tail) == size else read_range(fs, path, 0, 64))
        what = f"it is {kind}" if kind else "cut short, or something else; write it again"
        raise CorruptInputError(f"{shown} does not end as a Parquet file does: {what}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise CorruptInputError(f"{shown} has a corrupt Parquet footer; write it again")
    if length > len(tail):
        tail = read_range(fs, path, size - length, size)
    footer = tail[-length:]
    try:
        said = parse_buffer("read_footer", {"size": size}, footer)
    except CorruptInputError as error:
        raise CorruptInputError(
            f"{shown} has a corrupt Parquet footer ({error}); write it again"
        ) from error
    return _footer(_identity(fs, path, info, footer), *said)


def _footer(identity: str, answer: dict[str, Any], buffers: Sequence[Any]) -> Footer:
    """What a child found in a file, as it answered."""
    schema = pa.ipc.read_schema(pa.py_buffer(buffers[0]))
    groups = tuple((rows, sizes) for rows, sizes in answer["groups"])
    return Footer(identity, schema, groups, answer.get("not_utf8", 0))


def _with_texts(schema: pa.Schema, columns: PostColumns | None) -> pa.Schema:
    roles = {} if columns is None else {columns.post_id: "post_id", columns.text: "text"}
    fields = [
        field.with_type(pa.string())
        if pa.types.is_primitive(field.type)
        and field.name in roles
        and (pa.types.is_floating(field.type) or not fits_role(field.type, roles[field.name]))
        else field
        for field in schema
    ]
    return pa.schema(fields)


def _identity(
    fs: fsspec.AbstractFileSystem, path: str, info: Mapping[str, Any], footer: bytes
) -> str:
    if (found := content_checksum(info)) is not None:
        return found
    if isinstance(fs, LocalFileSystem):
        modified = str(os.stat(path).st_mtime_ns)
    else:
        try:
            modified = fs.modified(path).isoformat()
        except NotImplementedError:
            modified = "unknown"
    begins = identity_without_checksum(info["size"], modified)
    return f"{begins}{hashlib.sha256(footer).hexdigest()}"


@dataclass(frozen=True)
class _LookedAt:
    """One file. keep: fields of its kept columns. lacks: the column that it has not.

    schema: None where it cannot be read. not_utf8: records that had to be repaired.
    """

    file: InputFile | FailedFile
    keep: tuple[pa.Field, ...] = ()
    lacks: str | None = None
    schema: pa.Schema | None = None
    not_utf8: int = 0

    @property
    def counts(self) -> bool:
        """Whether it says something of the columns: files without rows do not."""
        return not isinstance(self.file, InputFile) or self.file.rows > 0


def _look_at(
    url: str,
    info: Mapping[str, Any] | None,
    source_file: str,
    partition: str,
    columns: PostColumns,
    keep: Sequence[str],
) -> _LookedAt:
    def failed(error: str, lacks: str | None = None) -> _LookedAt:
        texts = [as_text(name) for name in (redact(url), source_file, partition, error)]
        return _LookedAt(FailedFile(*texts), lacks=lacks, schema=schema)

    schema: pa.Schema | None = None
    if not is_text(url):
        return failed(f"{redact(url)}: the name is not UTF-8; rename the file")
    try:
        fs, path = open_url(url)
        footer = read_footer(fs, path, info, columns)
        if footer.rows == 0:
            # Whatever its columns are, there is nothing in them.
            return _LookedAt(InputFile(url, source_file, partition, footer.identity, ()))
        schema = footer.schema
        layout = check_posts_schema(schema, columns, keep, redact(url))
    except UsageError:
        raise
    except SchemaError as error:
        there = schema is not None and error.column in schema.names
        return failed(str(error), None if there else error.column)
    except DRFError as error:
        return failed(str(error))
    except Exception as error:
        return failed(f"{redact(url)} cannot be read: {reason_of(error)}")
    groups = footer.row_groups(layout.read)
    return _LookedAt(
        InputFile(url, source_file, partition, footer.identity, groups),
        keep=tuple(map(of_records, layout.keep)) if is_records_file(path) else layout.keep,
        schema=schema,
        not_utf8=footer.not_utf8,
    )


def _check_columns(
    looked_at: Sequence[_LookedAt], columns: PostColumns, keep: Sequence[str], option: str
) -> None:
    """Raise UsageError where every file lacks a column: it is misspelt, or has another name."""
    if not looked_at:
        return
    lacking = {one.lacks for one in looked_at}
    name = lacking.pop() if len(lacking) == 1 else None
    mapped = [role for role in ROLES if name == getattr(columns, role) != role]
    if name is not None and (mapped or name in keep):
        given = f"--column {mapped[0]}={name}" if mapped else f"--keep {name}"
        error = next(one.file.error for one in looked_at if isinstance(one.file, FailedFile))
        raise UsageError(f"{given}: no input file has that column: {error}")
    schemas = [one.schema for one in looked_at if one.schema is not None]
    if len(schemas) == len(looked_at) and (lacked := describe_missing(schemas, columns)):
        raise UsageError(f"{option}: {lacked}")
