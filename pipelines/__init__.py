"""The jobs: what turns files of posts into files of annotations, over Beam and fsspec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.annotate.output.snapshot import annotation_files, read_annotations

__all__ = ["annotation_files", "read_annotations"]


def __getattr__(name: str) -> Any:
    # Not before somebody asks: `drf --help` needs no Arrow.
    if name in __all__:
        from pipelines.annotate.output import snapshot

        return getattr(snapshot, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
