"""What a command says beside its result, on standard error."""

from __future__ import annotations

import sys


def complain(message: str) -> None:
    """Print one line without credentials, whatever a library put into the message."""
    from pipelines.storage.redaction import one_line

    print(f"drf: {one_line(message)}", file=sys.stderr)


def printed(text: str) -> None:
    """Print a result of several lines; names from outside that are in it command no terminal."""
    for line in text.split("\n"):
        print("".join(c if c.isprintable() else " " for c in line))


def say(line: str) -> None:
    """Print a line of progress, at once."""
    print(line, file=sys.stderr, flush=True)
