"""From results to rows: Arrow batches of annotations and of dead letters, in source order."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from drf_core.annotator import Prediction
from pipelines.preparing import DeadLetter
from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION, MODALITIES, annotations_schema
from schemas.dead_letters import dead_letters_schema

Result = Prediction | DeadLetter


@dataclass(frozen=True)
class RunColumns:
    """What every annotation of a run says alike."""

    labels: tuple[str, ...]
    model_id: str
    model_revision: str
    run_id: str


def prediction_fields(prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """Label, confidence, probabilities and diagnostics of one post, by column name."""
    fields: dict[str, Any] = {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": dict(zip(labels, prediction.probabilities, strict=True)),
    }
    for name in MODALITIES:
        modality = getattr(prediction, name)
        fields[f"{name}_state"] = modality.state
        fields[f"{name}_quality"] = modality.quality
        fields[f"{name}_weight"] = modality.weight
        fields[f"{name}_reason"] = modality.reason
    return fields


def build_rows(
    run: RunColumns,
    source_file: str,
    first_row: int,
    post_ids: Sequence[str | None],
    results: Sequence[Result],
    kept: pa.RecordBatch,
    annotated_at: datetime.datetime,
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Annotations and dead letters of consecutive source rows; each row is in one of them.

    post_ids, results and the rows of `kept` (the columns named with --keep) run parallel;
    first_row is the source row of the first of them.
    """
    annotations: list[dict[str, Any]] = []
    dead_letters: list[dict[str, Any]] = []
    annotated: list[int] = []
    for offset, (post_id, result) in enumerate(zip(post_ids, results, strict=True)):
        row: dict[str, Any] = {
            "post_id": post_id,
            "source_file": source_file,
            "source_row": first_row + offset,
        }
        if isinstance(result, DeadLetter):
            row |= {"stage": result.stage, "reason": result.reason, "message": result.message}
            dead_letters.append(row)
        else:
            row |= prediction_fields(result, run.labels)
            row |= {
                "model_id": run.model_id,
                "model_revision": run.model_revision,
                "run_id": run.run_id,
                "schema_version": ANNOTATIONS_SCHEMA_VERSION,
                "annotated_at": annotated_at,
            }
            annotations.append(row)
            annotated.append(offset)
    schema = annotations_schema(run.labels, tuple(kept.schema))
    columns = [
        pa.array([row[field.name] for row in annotations], field.type)
        for field in list(schema)[: len(schema) - kept.num_columns]
    ]
    columns += _rows(kept, annotated).columns
    return (
        pa.RecordBatch.from_arrays(columns, schema=schema),
        pa.RecordBatch.from_pylist(dead_letters, schema=dead_letters_schema()),
    )


def _rows(batch: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    """Return some rows of a batch, in ascending order, whatever its types."""
    # Not take: it knows no string views, nor what is nested around them.
    slices, start = [batch.slice(0, 0)], 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            slices.append(batch.slice(rows[start], end - start))
            start = end
    return pa.concat_batches(slices)
