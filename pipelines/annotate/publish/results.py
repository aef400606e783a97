"""What became of a partition and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.annotate.output.ledger import UnpublishedFile


@dataclass(frozen=True)
class FileResult:
    """What became of one input file; status as in the manifest. error: one readable line."""

    status: str
    error: str | None = None


@dataclass(frozen=True)
class PartitionResult:
    """What became of a partition.

    status: published or up_to_date (it says _SUCCESS), failed (it has failed files), orphaned
    (it holds posts of files that are gone), incomplete (something else is missing), held_back
    (nothing was changed). files: by source_file, those of the task. message: why it is not
    complete.
    """

    partition: str
    status: str
    files: Mapping[str, FileResult] = field(default_factory=dict)
    pruned: tuple[str, ...] = ()
    message: str | None = None
    warnings: tuple[str, ...] = ()


def why_unpublished(unpublished: Mapping[str, UnpublishedFile]) -> str:
    """Return why a partition is not complete. unpublished: of its ledger, not empty."""
    name, first = next(iter(unpublished.items()))
    error = f"{name}: {first.error}" if first.gone else first.error
    more = f" (and {len(unpublished) - 1} more files)" if len(unpublished) > 1 else ""
    return f"no _SUCCESS: {error}{more}"
