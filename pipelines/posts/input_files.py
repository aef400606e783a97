"""Input files as plans know them: what can be read, and what cannot."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import DRFError
from schemas.exit_codes import ExitCode


@dataclass(frozen=True)
class RowGroup:
    """One row group of an input file: rows, and bytes of its columns uncompressed."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class RowRange:
    """Rows of one input file that are wanted together; a shard is one.

    first_row: 0-based row of the file. row_groups: indices of those that hold the rows.
    """

    source_file: str
    first_row: int
    rows: int
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class InputFile:
    """One input file as the planner saw it.

    path: the fsspec URL that workers open.
    source_file: its name in the rows (from the first ``key=value`` folder on, else
        relative to the input root).
    partition: its hive partition (``dt=2026-11-19``, nested ones joined by ``/``), or "".
    identity: the store's checksum or etag, else size, mtime and footer hash.
    """

    path: str
    source_file: str
    partition: str
    identity: str
    row_groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        """Rows of the file, by its footer."""
        return sum(group.rows for group in self.row_groups)


@dataclass(frozen=True)
class FailedFile:
    """An input file that cannot be annotated, and why (one readable line)."""

    path: str
    source_file: str
    partition: str
    error: str


class InputChangedError(DRFError):
    """An input file is no longer the one that was planned."""

    exit_code = ExitCode.FAILED_FILES


class CorruptInputError(DRFError):
    """A file whose content cannot be read; trying again would not help."""

    exit_code = ExitCode.FAILED_FILES


def identity_without_checksum(size: int, modified: object) -> str:
    """How an identity begins where the store has no checksum; a hash of the footer follows."""
    return f"size:{size}:modified:{modified}:footer:"
