"""What the command says when something is wrong: always one line, on standard error."""

from __future__ import annotations

import sys


def complain(message: str) -> None:
    """Print one line, whatever a library put into the message."""
    printable = "".join(c if c.isprintable() else " " for c in message)
    print(f"drf: {' '.join(printable.split())}", file=sys.stderr)
