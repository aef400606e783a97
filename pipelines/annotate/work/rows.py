"""From results to rows: Arrow batches of annotations and of dead letters, in source order."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from drf_core.annotator import Prediction
from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION, MODALITIES, annotations_schema
from schemas.dead_letters import dead_letters_schema
from schemas.posts import MAX_ID_CHARACTERS
from schemas.reasons import DeadLetterReason


@dataclass(frozen=True)
class DeadLetter:
    """Why a post cannot be annotated; the message never quotes the post.

    lost: why its modalities could not be used, so that --retry finds it by those reasons.
    """

    stage: str
    reason: DeadLetterReason
    message: str
    lost: tuple[str, ...] = ()


def broken_record(why: str) -> DeadLetter:
    """A dead letter for a row that its file has no values of."""
    return DeadLetter("check", DeadLetterReason.BROKEN_RECORD, why)


def no_post_id(post_id: str | None) -> DeadLetter | None:
    """A dead letter for a post whose id is null or blank, else None."""
    if post_id is None:
        return DeadLetter("check", DeadLetterReason.NO_POST_ID, "post_id is null")
    if not post_id.strip():
        return DeadLetter("check", DeadLetterReason.NO_POST_ID, "post_id is blank")
    if len(post_id) > MAX_ID_CHARACTERS:
        long = f"post_id is longer than {MAX_ID_CHARACTERS:,} characters"
        return DeadLetter("check", DeadLetterReason.NO_POST_ID, long)
    return None


class AsBefore:
    """The result of a row that --retry does not ask for: what an earlier run left of it."""


AS_BEFORE = AsBefore()

Result = Prediction | DeadLetter | AsBefore


@dataclass(frozen=True)
class RunColumns:
    """What every annotation of a run says alike."""

    labels: tuple[str, ...]
    model_id: str
    model_revision: str
    run_id: str


def prediction_fields(prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """Label, confidence, probabilities and diagnostics of one post, by column name."""
    fields = {name: of[0] for name, of in _prediction_columns([prediction], labels).items()}
    return {**fields, "probabilities": dict(zip(labels, prediction.probabilities, strict=True))}


def build_rows(
    run: RunColumns,
    source_file: str,
    first_row: int,
    post_ids: Sequence[str | None],
    results: Sequence[Result],
    kept: pa.RecordBatch,
    annotated_at: datetime.datetime,
) -> tuple[pa.Table, pa.Table]:
    """Annotations and dead letters of consecutive source rows; each new row is in one of them.

    What is as before is in neither. post_ids, results and the rows of `kept` (the columns named
    with --keep) run parallel; first_row is the source row of the first of them.
    """
    annotated = [row for row, result in enumerate(results) if isinstance(result, Prediction)]
    predictions = [result for result in results if isinstance(result, Prediction)]
    said: dict[str, Any] = {
        "post_id": [post_ids[row] for row in annotated],
        **_prediction_columns(predictions, run.labels),
        "source_row": [first_row + row for row in annotated],
    }
    alike = {
        "source_file": source_file,
        "model_id": run.model_id,
        "model_revision": run.model_revision,
        "run_id": run.run_id,
        "schema_version": ANNOTATIONS_SCHEMA_VERSION,
        "annotated_at": annotated_at,
    }
    schema = _schema(run.labels, tuple(kept.schema))
    columns = [
        pa.repeat(pa.scalar(alike[field.name], field.type), len(annotated))
        if field.name in alike
        else _array(said[field.name], field.type)
        for field in list(schema)[: len(schema) - kept.num_columns]
    ]
    columns += _rows(kept, annotated).columns
    dead_letters = [
        {
            "post_id": post_ids[row],
            "source_file": source_file,
            "source_row": first_row + row,
            "stage": result.stage,
            "reason": result.reason,
            "message": result.message,
        }
        for row, result in enumerate(results)
        if isinstance(result, DeadLetter)
    ]
    return (
        pa.Table.from_arrays(columns, schema=schema),
        pa.Table.from_pylist(dead_letters, schema=dead_letters_schema()),
    )


# Made once, not per batch.
_schema = functools.lru_cache(annotations_schema)


def _prediction_columns(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Any]:
    """What the model says of each post, as columns: a row at a time costs more."""
    winners = [labels.index(prediction.label) for prediction in predictions]
    columns: dict[str, Any] = {
        "label": [prediction.label for prediction in predictions],
        "confidence": [prediction.confidence for prediction in predictions],
        # Of a struct, a list per field.
        "probabilities": [
            [prediction.probabilities[column] for prediction in predictions]
            for column in range(len(labels))
        ],
    }
    for name in MODALITIES:
        modalities = [getattr(prediction, name) for prediction in predictions]
        for what in ("state", "quality", "score", "evidence", "damage", "reason"):
            columns[f"{name}_{what}"] = [getattr(modality, what) for modality in modalities]
        of_labels = zip(columns[f"{name}_evidence"], winners, strict=True)
        columns[f"{name}_evidence"] = [evidence[winner] for evidence, winner in of_labels]
    columns["text_share_read"] = [prediction.text_share_read for prediction in predictions]
    return columns


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_struct(kind):
        return pa.array(values, kind)
    fields = list(kind)
    arrays = [pa.array(of, field.type) for of, field in zip(values, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _rows(batch: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    """Return some rows of a batch, in ascending order, whatever its types."""
    if len(rows) == batch.num_rows:
        return batch
    # Not take: it knows no string views, nor what is nested around them.
    slices, start = [batch.slice(0, 0)], 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            slices.append(batch.slice(rows[start], end - start))
            start = end
    return pa.concat_batches(slices)
