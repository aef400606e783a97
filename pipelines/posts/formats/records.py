"""A record, and what is done to the lines of all that is text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Of a record. The reader of CSV takes four bytes for each character, and twice as many to grow.
MOST_CHARACTERS = 64 << 20
TOO_LONG = f"a record of more than {MOST_CHARACTERS:,} characters"


@dataclass(frozen=True)
class Broken:
    """A record that is none. why: one line that quotes nothing of it."""

    why: str


class Repaired(dict[str, Any]):
    """A record of which some bytes were no UTF-8, and are U+FFFD."""


Record = dict[str, Any] | Broken


def said(error: Exception) -> str:
    """What an error says, without what it quotes of the file."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def utf8(line: str) -> str | None:
    """A line with U+FFFD for bytes that are no UTF-8, as in Parquet; None where it has none."""
    if line.isascii():
        return None
    try:
        line.encode()
        return None
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def next_line(file: Any) -> Any:
    """The next line of a file of text or bytes, None in place of one that is too long."""
    line = file.readline(MOST_CHARACTERS)
    if len(line) < MOST_CHARACTERS:
        return line
    ends = ("\n", "\r") if isinstance(line, str) else b"\n"
    while line and not line.endswith(ends):
        line = file.readline(MOST_CHARACTERS)
    return None


def check_encoding(first_line: str) -> None:
    """Raise ValueError where a file's first line is no UTF-8 but what spreadsheets write."""
    if "\0" in first_line:
        raise ValueError("UTF-16 or UTF-32, or no text at all; write it as UTF-8")
