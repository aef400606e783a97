"""JSON Lines: an object a line."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

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

# Fewer nest nothing too deep.
_MANY = 500


def json_records(file: Any, path: str) -> Iterator[Record]:
    """Yield a file's records. Raises ValueError where it is no text, or one array."""
    for number in itertools.count():
        line = next_line(file)
        if line is None:
            yield Broken(TOO_LONG)
            continue
        if not line:
            return
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")
        sound = utf8(text)
        text = text if sound is None else sound
        if number == 0:
            check_encoding(text)
            if text.strip() == "[":
                raise ValueError("an array; write one object a line (JSON Lines)")
        if not text.strip():
            continue
        try:
            record = json.loads(text, parse_constant=_constant)
            if text.count("[") + text.count("{") > _MANY:
                # What is nested so deep that it is only just read is not written again.
                json.dumps(functools.reduce(lambda inner, _: [inner], range(50), record))
            if "\\ud" in text or "\\uD" in text:
                record = _repaired(record)
        except (ValueError, RecursionError) as error:
            yield Broken(said(error))
            continue
        if isinstance(record, list):
            yield Broken("an array; write one object a line (JSON Lines)")
        elif not isinstance(record, dict):
            yield Broken("no object")
        else:
            yield record if sound is None else Repaired(record)


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
