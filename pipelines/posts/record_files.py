"""Posts in CSV, JSON Lines and Avro: files without a footer, read from their first record on.

Planning reads such a file once to count its records and to find their types, from all values
and not from the first ones. That is why neither Arrow's JSON reader serves (it takes texts that
look like dates for dates, and refuses a field that turns up late) nor its CSV reader's types.
A column of CSV is text, whatever it holds, so that it has one type in every night's file; an
empty field is null.

A record that is none (a ragged row, a line that is no JSON, a damaged block of Avro) is a row like
others, with what is wrong with it in place of its values. It costs itself, as long as most are
sound; what breaks the file itself (a cut gzip, UTF-16) fails the file.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.posts.input_files import CorruptInputError
from schemas.posts import BROKEN


@dataclass(frozen=True)
class Broken:
    """A record that is none. why: one line that quotes nothing of it."""

    why: str


Record = dict[str, Any] | Broken

# The larger it is, the less it costs; the smaller, the less of a file is held.
_SURVEYED_AT_ONCE = 256
_DELIMITERS = ",;\t|"
# Of a record; the reader of CSV takes four bytes for each character, and twice as many to grow.
_MOST_CHARACTERS = 64 << 20
_TOO_LONG = f"a record of more than {_MOST_CHARACTERS:,} characters"
# Avro's blocks say how many records they hold; with more for each byte they are wrong.
_MOST_RECORDS_PER_BYTE = 2_000
_AVRO_MARKER_BYTES = 16
_MOST_BLOCK_BYTES = 1 << 30
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
    Raises CorruptInputError, naming the record, where the file is damaged or most of its records
    are; what the store raises passes through.
    """
    types: dict[str, pa.DataType] = {}
    rows = broken = 0
    first = ""
    with _opened(file, name) as (records, plain):
        for chunk in _chunks(records, _SURVEYED_AT_ONCE):
            sound = [record for record in chunk if isinstance(record, dict)]
            for row, record in enumerate(chunk):
                if isinstance(record, Broken):
                    first = first or f"record {rows + row}, counted from 0: {record.why}"
            rows += len(chunk)
            broken += len(chunk) - len(sound)
            for name in dict.fromkeys(name for record in sound for name in record):
                values = [record.get(name) for record in sound]
                types[name] = _common_type(types.get(name, pa.null()), values)
        size = plain.tell()
    if broken > rows // 2:
        # Another format, delimiter or header than was taken for its own.
        raise CorruptInputError(f"{first}; {broken:,} of {rows:,} records are broken")
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
    csv.field_size_limit(_MOST_CHARACTERS)
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
        lines = _Lines(text)
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin()
            try:
                values, why = next(records, None), ""
            except csv.Error as error:
                values, why = [], _said(error)
            if values is None:
                return
            if len(values) == len(names):
                yield {name: value or None for name, value in zip(names, values, strict=True)}
            elif values or why:
                fields = f"{len(values)} fields where the first line names {len(names)}"
                yield Broken(why or fields)
                # A quote that nobody closed took the lines that follow for its own.
                lines.again()
    finally:
        text.detach()


class _Lines:
    """A text's lines for a reader of CSV, which raises csv.Error where a record is too long."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self.begin()

    def begin(self) -> None:
        """The next line begins a record."""
        self._of_record: list[str] = []
        self._characters = 0

    def again(self) -> None:
        """Give the lines behind the record's first once more."""
        self._waiting.extendleft(reversed(self._of_record[1:]))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else _line(self._file)
        if line == "":
            raise StopIteration
        self._of_record.append(line or "")
        self._characters += len(line or "")
        if line is None or self._characters > _MOST_CHARACTERS:
            raise csv.Error(_TOO_LONG)
        return str(line)


def _line(file: Any) -> Any:
    """The next line of a file of text or bytes, None in place of one that is too long."""
    line = file.readline(_MOST_CHARACTERS)
    if len(line) < _MOST_CHARACTERS:
        return line
    ends = ("\n", "\r") if isinstance(line, str) else b"\n"
    while line and not line.endswith(ends):
        line = file.readline(_MOST_CHARACTERS)
    return None


def _json_records(file: Any, path: str) -> Iterator[Record]:
    for number in itertools.count():
        line = _line(file)
        if line is None:
            yield Broken(_TOO_LONG)
            continue
        if not line:
            return
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
        if number == 0:
            _check_encoding(text)
        if not text.strip():
            continue
        try:
            record = json.loads(text, parse_constant=_constant)
            if "\\ud" in text or "\\uD" in text:
                record = _repaired(record)
        except (ValueError, RecursionError) as error:
            yield Broken(_said(error))
            continue
        if isinstance(record, list):
            yield Broken("an array; write one object a line (JSON Lines)")
        else:
            yield record if isinstance(record, dict) else Broken("no object")


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

    fastavro.block_reader(file)
    size = file.tell()
    file.seek(0)
    header = file.read(size)
    while block := _avro_block(file, header[-_AVRO_MARKER_BYTES:]):
        count, content = block
        try:
            # By itself, so that what is behind it can be read.
            records = list(fastavro.reader(io.BytesIO(header + content)))
        except Exception as error:
            broken = Broken(f"in a block that cannot be read: {_said(error)}")
            yield from itertools.repeat(broken, count)
            continue
        if records and not isinstance(records[0], dict):
            raise ValueError("no record of fields")
        yield from (record for record in records if isinstance(record, dict))


def _avro_block(file: Any, marker: bytes) -> tuple[int, bytes] | None:
    """The number of records of the next block, and the block as it lies there; None at the end.

    A block: how many records, how many bytes, those, and the marker that the header ends with
    (https://avro.apache.org/docs/1.12.0/specification/#object-container-files).
    """
    count, content = _avro_long(file)
    if not content:
        return None
    size, more = _avro_long(file)
    if not 0 <= size <= _MOST_BLOCK_BYTES or not 0 <= count <= _MOST_RECORDS_PER_BYTE * size:
        raise ValueError("the size of a block is wrong")
    rest = file.read(size + _AVRO_MARKER_BYTES)
    if len(rest) < size + _AVRO_MARKER_BYTES or not rest.endswith(marker):
        raise ValueError("a block is cut short, or its size is wrong")
    return count, content + more + rest


def _avro_long(file: Any) -> tuple[int, bytes]:
    """The next integer as Avro writes it (zigzag, seven bits a byte), and its bytes, if any."""
    value, content = 0, b""
    for shift in range(0, 70, 7):
        content += (byte := file.read(1))
        value |= (byte[0] & 0x7F if byte else 0) << shift
        if not byte or byte[0] < 0x80:
            break
    return (value >> 1) ^ -(value & 1), content


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
