"""CSV and TSV: the first line names the columns, and tells what separates them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from pipelines.posts.formats import records
from pipelines.posts.formats.records import (
    TOO_LONG,
    Broken,
    Record,
    Repaired,
    check_encoding,
    next_line,
    said,
    utf8,
)

_DELIMITERS = ",;\t|"
# Of fields of CSV; the second is that of databases.
_NO_VALUES = ("", r"\N")
# Spark and databases write \" where others write "".
_ESCAPED = re.compile(r'\\(["\\])')


def csv_records(file: Any, path: str) -> Iterator[Record]:
    """Yield a file's records. Raises ValueError where its first line is none of CSV."""
    # A field may be an image in base64.
    csv.field_size_limit(records.MOST_CHARACTERS)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        header = text.readline()
        delimiter = ""
        if told := re.fullmatch(r"sep=(.)\s*", header):
            # As spreadsheets are.
            delimiter, header = told[1], text.readline()
        check_encoding(header)
        if not header.strip():
            raise ValueError("the first line names no columns")
        delimiter = delimiter or max(_DELIMITERS, key=header.count)
        names = next(csv.reader([utf8(header) or header], delimiter=delimiter))
        # Spreadsheets have columns without a name behind the others.
        twice = [name for name, count in Counter(names).items() if name and count > 1]
        if twice:
            raise ValueError(f"two columns are called {twice[0][:40]!r}")
        lines = _Lines(text)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin()
            values, why = _next(rows)
            if values is None:
                return
            if len(values) != len(names) and lines.unescape():
                values, why = _next(rows)
                values = values or []
            if len(values) == len(names):
                of = Repaired if lines.repaired else dict
                yield of(
                    (name, None if value in _NO_VALUES else value)
                    for name, value in zip(names, values, strict=True)
                    if name
                )
            elif values or why:
                fields = f"{len(values)} fields where the first line names {len(names)}"
                yield Broken(why or fields)
                # A quote that nobody closed took the lines that follow for its own.
                lines.again(1)
    finally:
        text.detach()


def _next(reader: Iterator[list[str]]) -> tuple[list[str] | None, str]:
    """The next record's fields, None at the end, and what is wrong with it."""
    try:
        return next(reader, None), ""
    except csv.Error as error:
        return [], said(error)


class _Lines:
    """A text's lines for a reader of CSV, which raises csv.Error where a record is too long."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self.begin()

    def begin(self, unescapes: bool = False) -> None:
        """The next line begins a record. repaired: whether bytes of it were no UTF-8."""
        self._of_record: list[str] = []
        self._characters = 0
        self._unescapes = unescapes
        self.repaired = False

    def again(self, first: int) -> None:
        """Give the record's lines once more, from its `first` on."""
        self._waiting.extendleft(reversed(self._of_record[first:]))

    def unescape(self) -> bool:
        """Begin the record once more with its quotes written twice; whether any is escaped."""
        found = any('\\"' in line for line in self._of_record)
        if found:
            self.again(0)
            self.begin(unescapes=True)
        return found

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next_line(self._file)
        if line == "":
            raise StopIteration
        self._of_record.append(line or "")
        self._characters += len(line or "")
        if line is None or self._characters > records.MOST_CHARACTERS:
            raise csv.Error(TOO_LONG)
        if (sound := utf8(line)) is not None:
            line, self.repaired = sound, True
        if self._unescapes:
            line = _ESCAPED.sub(lambda found: found[1] * (2 if found[1] == '"' else 1), line)
        return str(line)
