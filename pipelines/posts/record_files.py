"""Posts in CSV, JSON Lines and Avro: files without a footer, read from their first record on.

Planning reads such a file once to count its records and to find their types, from all values
and not from the first ones. That is why neither Arrow's JSON reader serves (it takes texts that
look like dates for dates, and refuses a field that turns up late) nor its CSV reader's types.
A column of CSV is text, whatever it holds, so that it has one type in every night's file; an
empty field is null.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.posts.files import CorruptInputError

Record = dict[str, Any]

# The larger it is, the less it costs; the smaller, the less of a file is held.
_SURVEYED_AT_ONCE = 256
_DELIMITERS = ",;\t|"
# What the readers raise where a file is damaged; a store's faults are other errors.
_DAMAGE = (ValueError, EOFError, LookupError, zlib.error, gzip.BadGzipFile, csv.Error)


@dataclass(frozen=True)
class Survey:
    """What one pass over a file says of it. bytes: of it uncompressed, about."""

    schema: pa.Schema
    rows: int
    bytes: int


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
    Raises CorruptInputError, naming the record; what the store raises passes through.
    """
    types: dict[str, pa.DataType] = {}
    rows = 0
    with _opened(file, name) as (records, plain):
        for chunk in _chunks(records, _SURVEYED_AT_ONCE):
            rows += len(chunk)
            for name in dict.fromkeys(name for record in chunk for name in record):
                values = [record.get(name) for record in chunk]
                types[name] = _common_type(types.get(name, pa.null()), values)
        size = plain.tell()
    return Survey(pa.schema(list(types.items())), rows, size)


def read_records(
    file: Any,
    name: str,
    schema: pa.Schema,
    columns: Sequence[str],
    batch_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Yield all records of a file in batches, in their order.

    file, name: see `survey`. schema: as `survey` found it.
    columns: those to be read. Raises as `survey` does.
    """
    fields = [schema.field(name) for name in columns]
    with _opened(file, name) as (records, _):
        for chunk in _chunks(records, batch_rows):
            arrays = [_array([record.get(f.name) for record in chunk], f.type) for f in fields]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


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
            raise CorruptInputError(f"record {number}, counted from 0: {_said(error)}") from error
        if record is None:
            break
        number += 1
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _said(error: Exception) -> str:
    """What an error says, without what it quotes of the file."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _csv_records(file: Any, path: str) -> Iterator[Record]:
    # A field may be an image in base64.
    csv.field_size_limit(sys.maxsize)
    # What is no UTF-8 becomes U+FFFD, as in Parquet, instead of failing the file.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    try:
        header = text.readline()
        _check_encoding(header)
        if not header.strip():
            raise ValueError("the first line names no columns")
        delimiter = max(_DELIMITERS, key=header.count)
        names = next(csv.reader([header], delimiter=delimiter))
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        for values in csv.reader(text, delimiter=delimiter, strict=True):
            if not values:
                continue
            if len(values) != len(names):
                raise ValueError(f"{len(values)} fields where the first line names {len(names)}")
            yield {name: value or None for name, value in zip(names, values, strict=True)}
    finally:
        text.detach()


def _json_records(file: Any, path: str) -> Iterator[Record]:
    for number, line in enumerate(file):
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
        if number == 0:
            _check_encoding(text)
        if not text.strip():
            continue
        record = json.loads(text, parse_constant=_constant)
        if "\\ud" in text or "\\uD" in text:
            record = _repaired(record)
        if isinstance(record, list):
            raise ValueError("an array; write one object a line (JSON Lines)")
        if not isinstance(record, dict):
            raise ValueError("no object")
        yield record


def _check_encoding(first_line: str) -> None:
    """Raise ValueError where a file's first line is no UTF-8 but what spreadsheets write."""
    if "\0" in first_line:
        raise ValueError("UTF-16 or UTF-32, or no text at all; write it as UTF-8")


def _repaired(record: Any) -> Any:
    """A record with U+FFFD for each half of an emoji, which JSON can hold and UTF-8 cannot."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
        return record
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _constant(name: str) -> float | None:
    """What Python and pandas write though JSON has no such numbers: NaN stands for nothing."""
    return None if name == "NaN" else float(name)


def _avro_records(file: Any, path: str) -> Iterator[Record]:
    import fastavro

    for record in fastavro.reader(file):
        if not isinstance(record, dict):
            raise ValueError("no record of fields")
        yield record


_FORMATS: dict[str, Callable[[Any, str], Iterator[Record]]] = {
    ".csv": _csv_records,
    ".tsv": _csv_records,
    ".jsonl": _json_records,
    ".ndjson": _json_records,
    ".json": _json_records,
    ".avro": _avro_records,
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
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.string()


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_string(type_):
        values = [v if v is None or isinstance(v, str) else _as_text(v) for v in values]
    return pa.array(values, type_)


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
