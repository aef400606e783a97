"""Posts in CSV, JSON Lines and Avro: files without a footer, read from their first record on.

Planning reads such a file once to count its records and to find their types, from all values
and not from the first ones. That is why neither Arrow's JSON reader serves (it takes texts that
look like dates for dates, and refuses a field that turns up late) nor its CSV reader's types.
A column of CSV is text, whatever it holds, so that it has one type in every night's file; an
empty field is null.

A record that is none (a ragged row, a line that is no JSON, a damaged block of Avro) is a row like
others, with what is wrong with it in place of its values. It costs itself, as long as most are
sound; what breaks the file itself (a cut gzip, UTF-16) fails the file. Bytes that are no UTF-8
become U+FFFD, and that is said; a file most of whose records have some is in another encoding.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.posts.formats.avro_blocks import avro_records
from pipelines.posts.formats.comma_separated import csv_records
from pipelines.posts.formats.json_lines import json_records
from pipelines.posts.formats.records import Broken, Record, Repaired, said
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.kinds import binary_kind
from schemas.posts import BROKEN

# The larger it is, the less it costs; the smaller, the less of a file is held.
_SURVEYED_AT_ONCE = 256
# Types that are nested deeper are written, and not read again.
_DEEPEST = 32
# What the readers raise where a file is damaged; a store's faults are other errors.
_DAMAGE = (ValueError, EOFError, LookupError, zlib.error, gzip.BadGzipFile, csv.Error)


@dataclass(frozen=True)
class Survey:
    """What one pass over a file says of it. bytes: of it uncompressed, about.

    not_utf8: records that had to be repaired.
    """

    schema: pa.Schema
    rows: int
    bytes: int
    not_utf8: int


def is_records_file(name: str, in_folder: bool = False) -> bool:
    """Whether a file's name says that it holds records: .csv, .tsv, .jsonl, … or with .gz.

    in_folder: found there, and not named by anybody; .json may be anything then.
    """
    plain = name.lower().removesuffix(".gz")
    return _format_of(name) is not None and not (in_folder and plain.endswith(".json"))


def survey(file: Any, name: str) -> Survey:
    """Count a file's records and find their types.

    file: opened, as it lies in its store; name: that says its format. A field whose values have
    no type in common is text.
    Raises CorruptInputError, naming the record, where the file is damaged or most of its records
    are; what the store raises passes through.
    """
    types: dict[str, pa.DataType] = {}
    rows = broken = not_utf8 = 0
    first = ""
    with _opened(file, name) as (records, plain):
        _check_kind(plain, name)
        for chunk in _chunks(records, _SURVEYED_AT_ONCE):
            sound = [record for record in chunk if isinstance(record, dict)]
            for row, record in enumerate(chunk):
                if isinstance(record, Broken):
                    first = first or f"record {rows + row}, counted from 0: {record.why}"
            rows += len(chunk)
            broken += len(chunk) - len(sound)
            not_utf8 += sum(isinstance(record, Repaired) for record in chunk)
            for name in dict.fromkeys(name for record in sound for name in record):
                values = [record.get(name) for record in sound]
                types[name] = _common_type(types.get(name, pa.null()), values)
        size = plain.tell()
    if broken > rows // 2:
        # Another format, delimiter or header than was taken for its own.
        raise CorruptInputError(f"{first}; {broken:,} of {rows:,} records are broken")
    if not_utf8 > rows // 2:
        raise CorruptInputError(
            f"{not_utf8:,} of {rows:,} records are in another encoding than UTF-8"
        )
    return Survey(pa.schema(list(types.items())), rows, size, not_utf8)


def read_records(
    file: Any,
    name: str,
    schema: pa.Schema,
    columns: Sequence[str],
    batch_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Yield all records of a file in batches, in their order.

    file, name: see `survey`. schema: as `survey` found it.
    columns: those to be read. Where records are broken, the column BROKEN says why, and theirs are
    null. Raises as `survey` does.
    """
    fields = [schema.field(name) for name in columns]
    with _opened(file, name) as (records, _):
        for chunk in _chunks(records, batch_rows):
            why = [record.why if isinstance(record, Broken) else None for record in chunk]
            sound = [record if isinstance(record, dict) else {} for record in chunk]
            arrays = [_array([record.get(f.name) for record in sound], f.type) for f in fields]
            batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
            yield batch.append_column(BROKEN, pa.array(why, pa.string())) if any(why) else batch


def _check_kind(plain: Any, name: str) -> None:
    """Raise CorruptInputError where a file's first bytes are those of another kind of file."""
    try:
        head = plain.read(64)
        plain.seek(0)
    except _DAMAGE:
        # Which the reader of records tells.
        return
    kind = binary_kind(head)
    if kind is not None and _format_of(name) is not avro_records:
        raise CorruptInputError(f"it is {kind}")


def _format_of(name: str) -> Callable[[Any, str], Iterator[Record]] | None:
    plain = name.lower().removesuffix(".gz")
    return next((read for suffix, read in _FORMATS.items() if plain.endswith(suffix)), None)


@contextlib.contextmanager
def _opened(file: Any, name: str) -> Iterator[tuple[Iterator[Record], Any]]:
    read = _format_of(name)
    assert read is not None, name
    plain = gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file
    yield read(plain, name), plain


def _chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    """Yield records by `size`; what a damaged file makes its reader raise names the record."""
    chunk: list[Record] = []
    number = 0
    while True:
        try:
            record = next(records, None)
        except _DAMAGE as error:
            raise CorruptInputError(f"record {number}, counted from 0: {said(error)}") from error
        if record is None:
            break
        number += 1
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


_FORMATS: dict[str, Callable[[Any, str], Iterator[Record]]] = {
    ".csv": csv_records,
    ".tsv": csv_records,
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".json": json_records,
    ".avro": avro_records,
}

# What a folder is searched for.
KINDS = (".parquet", *(suffix for suffix in _FORMATS if suffix != ".json"))


def _common_type(known: pa.DataType, values: Iterable[Any]) -> pa.DataType:
    """The type that holds what was seen and these values; text where there is no other."""
    if pa.types.is_string(known):
        return known
    try:
        new = pa.array(values).type
        both = [pa.schema([("", known)]), pa.schema([("", new)])]
        found = pa.unify_schemas(both, promote_options="permissive").field(0).type
        return found if _depth(found) <= _DEEPEST else pa.string()
    except (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError):
        return pa.string()


def _depth(type_: pa.DataType) -> int:
    return max((1 + _depth(type_.field(n).type) for n in range(type_.num_fields)), default=0)


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_string(type_):
        values = [v if v is None or isinstance(v, str) else _as_text(v) for v in values]
    return pa.array(values, type_)


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
