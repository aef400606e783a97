"""Annotations and dead letters: exactly the documented columns, readable by anyone."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from schemas.annotations import ANNOTATION_COLUMNS, annotations_schema
from schemas.dead_letters import dead_letters_schema
from schemas.errors import UsageError

LABELS = ("negative", "neutral", "positive")

ROW = {
    "post_id": "1",
    "label": "neutral",
    "confidence": 0.5,
    "probabilities": {"negative": 0.25, "neutral": 0.5, "positive": 0.25},
    "text_state": "present",
    "text_quality": 0.9,
    "text_score": -1.5,
    "text_evidence": 0.7,
    "text_damage": None,
    "text_reason": None,
    "image_state": "recovered",
    "image_quality": 0.1,
    "image_score": None,
    "image_evidence": -0.1,
    "image_damage": None,
    "image_reason": "missing",
    "text_share_read": 1.0,
    "source_file": "dt=2026-11-17/part-00000.parquet",
    "source_row": 7,
    "model_id": "default",
    "model_revision": "abc",
    "run_id": "r",
    "schema_version": 2,
    "annotated_at": datetime.datetime(2026, 11, 17, tzinfo=datetime.timezone.utc),
}


def test_the_columns_are_the_documented_ones_in_order():
    assert tuple(ROW) == ANNOTATION_COLUMNS
    kept = pa.field("lang", pa.dictionary(pa.int32(), pa.string()))
    schema = annotations_schema(LABELS, [kept])
    assert schema.names == [*ROW, "lang"]
    assert schema.field("lang").type == kept.type
    assert [field.name for field in schema.field("probabilities").type] == list(LABELS)
    assert schema.metadata[b"drf.schema_version"] == b"2"
    assert dead_letters_schema().names == [
        "post_id",
        "source_file",
        "source_row",
        "stage",
        "reason",
        "message",
    ]


def test_only_what_a_modality_may_have_none_of_may_be_null():
    schema = annotations_schema(LABELS)
    assert {field.name for field in schema if field.nullable} == {
        *("text_reason", "image_reason", "text_damage", "image_damage"),
        *("text_score", "image_score", "text_share_read"),
    }


def test_pandas_duckdb_and_arrow_read_what_is_written(tmp_path: Path):
    path = tmp_path / "dt=2026-11-17" / "part.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([ROW], annotations_schema(LABELS)), path)
    frame = pd.read_parquet(path)
    assert frame.loc[0, "probabilities"]["neutral"] == 0.5
    assert frame.loc[0, "annotated_at"] == pd.Timestamp(ROW["annotated_at"])
    with duckdb.connect() as db:
        query = f"select dt, label, probabilities.positive from '{tmp_path}/*/*.parquet'"
        (row,) = db.sql(query).fetchall()
    assert (str(row[0]), *row[1:]) == ("2026-11-17", "neutral", 0.25)
    assert ds.dataset(tmp_path, partitioning="hive").to_table().num_rows == 1


@pytest.mark.parametrize("labels", [(), ("",), ("a", "a")])
def test_labels_must_be_distinct(labels: tuple[str, ...]):
    with pytest.raises(ValueError, match="distinct"):
        annotations_schema(labels)


def test_a_kept_column_may_not_hide_an_annotation():
    with pytest.raises(UsageError, match="--keep confidence"):
        annotations_schema(LABELS, [pa.field("confidence", pa.float32())])
