"""Annotations: one row for every post with at least one usable modality."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from schemas.errors import UsageError

ANNOTATIONS_SCHEMA_VERSION = 2

MODALITIES = ("text", "image")

# present: used as it came. low_quality: used, but stranger than the checkpoint's threshold.
# recovered: it could not be used, and its features come from the other modality.
STATES = ("present", "low_quality", "recovered")

# Required but where a modality has none to tell: a part with a hole in it cannot be written.
_BEFORE_PROBABILITIES = (
    pa.field("post_id", pa.string(), nullable=False),
    pa.field("label", pa.string(), nullable=False),
    pa.field("confidence", pa.float32(), nullable=False),
)
_AFTER_PROBABILITIES = (
    *(
        field
        for modality in MODALITIES
        for field in (
            pa.field(f"{modality}_state", pa.string(), nullable=False),
            pa.field(f"{modality}_quality", pa.float32(), nullable=False),
            pa.field(f"{modality}_score", pa.float32()),
            pa.field(f"{modality}_evidence", pa.float32(), nullable=False),
            pa.field(f"{modality}_damage", pa.string()),
            pa.field(f"{modality}_reason", pa.string()),
        )
    ),
    pa.field("text_share_read", pa.float32()),
    pa.field("source_file", pa.string(), nullable=False),
    pa.field("source_row", pa.int64(), nullable=False),
    pa.field("model_id", pa.string(), nullable=False),
    pa.field("model_revision", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("schema_version", pa.int32(), nullable=False),
    pa.field("annotated_at", pa.timestamp("us", tz="UTC"), nullable=False),
)

ANNOTATION_COLUMNS = (
    *(field.name for field in _BEFORE_PROBABILITIES),
    "probabilities",
    *(field.name for field in _AFTER_PROBABILITIES),
)


def annotations_schema(labels: Sequence[str], kept: Sequence[pa.Field] = ()) -> pa.Schema:
    """Return the schema of annotations under a checkpoint's labels.

    labels: a float32 field each in the struct `probabilities`, in this order.
    kept: the posts' columns that travel through, as they were read; they come last.
    Raises UsageError where a kept column has the name of an annotation column, and
    ValueError where labels are none, empty or not distinct.
    """
    if not labels or not all(labels) or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be distinct, not empty: {list(labels)}")
    check_kept_names([field.name for field in kept])
    probabilities = pa.struct([pa.field(label, pa.float32(), nullable=False) for label in labels])
    return pa.schema(
        [
            *_BEFORE_PROBABILITIES,
            pa.field("probabilities", probabilities, nullable=False),
            *_AFTER_PROBABILITIES,
            *kept,
        ],
        metadata={"drf.schema_version": str(ANNOTATIONS_SCHEMA_VERSION)},
    )


def check_kept_names(names: Sequence[str]) -> None:
    """Raise UsageError where a kept column cannot stand beside the annotation columns."""
    # Readers such as DuckDB, Spark and BigQuery hold "Label" and "label" for one name.
    taken = {name.lower() for name in ANNOTATION_COLUMNS}
    seen: set[str] = set()
    for name in names:
        if name.lower() in taken:
            raise UsageError(
                f"--keep {name}: the annotations have a column of that name; "
                "rename it in the input, or do not keep it"
            )
        if name.lower() in seen:
            raise UsageError(f"--keep {name}: named twice; name each column once")
        seen.add(name.lower())
