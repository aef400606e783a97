"""What a command says beside its result, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def complain(message: str) -> None:
    """Print one line without credentials, whatever a library put into the message."""
    from pipelines.storage.redaction import one_line

    print(f"drf: {one_line(message)}", file=sys.stderr)


def printed(lines: Iterable[str]) -> None:
    """Print a result's lines; names from outside that are in them command no terminal."""
    for line in lines:
        print("".join(c if c.isprintable() else " " for c in line))


def say(line: str) -> None:
    """Print a line of progress, at once."""
    print(line, file=sys.stderr, flush=True)
