"""What the command says when something is wrong: always one line, on standard error."""

from __future__ import annotations

import sys


def complain(message: str) -> None:
    """Print one line without credentials, whatever a library put into the message."""
    from pipelines.store import one_line

    print(f"drf: {one_line(message)}", file=sys.stderr)
