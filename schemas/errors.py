"""Errors for people: one line that says what is wrong and what to do about it."""

from __future__ import annotations

from schemas.exit_codes import ExitCode


class DRFError(Exception):
    """Any fault that a user can understand; the command prints its line and no traceback.

    exit_code is what the command exits with.
    """

    exit_code = ExitCode.FAILED


class UsageError(DRFError):
    """The command cannot be carried out as it was written."""

    exit_code = ExitCode.WRONG_USAGE


class SchemaError(DRFError):
    """A file whose columns are not those of posts.

    file: the file's name, without credentials. column: the column's name in that file.
    found, expected: types, in words. way_out: what to do, as half a sentence.
    """

    exit_code = ExitCode.FAILED_FILES

    def __init__(self, file: str, column: str, found: str, expected: str, way_out: str) -> None:
        # All five go to args, so that the error survives pickling between processes.
        super().__init__(file, column, found, expected, way_out)
        self.file = file
        self.column = column
        self.found = found
        self.expected = expected
        self.way_out = way_out

    def __str__(self) -> str:
        """Return the one line a person reads."""
        return (
            f"{self.file}: column '{self.column}': found {self.found}, "
            f"expected {self.expected}; {self.way_out}"
        )
