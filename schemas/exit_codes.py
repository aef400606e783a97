"""What a command exits with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code; its meaning is what `drf --help` says of it."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Make the member of a line below."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "failed"
    WRONG_USAGE = 2, "wrong usage"
    HELD_BACK = 3, "a partition held back for its dead letters"
    FAILED_FILES = 4, "failed files (the others are published)"
    INTERRUPTED = 130, "interrupted"
