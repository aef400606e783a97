from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.output.histograms import EVIDENCE_FIELDS, GROUP_FIELDS, count_histograms
from pipelines.annotate.report.recount import sql_of_night
from tests.pipelines.annotate.output.test_histograms import table


def test_groups_damage_and_evidence_are_those_that_duckdb_counts(tmp_path: Path) -> None:
    kinds = ["blur", None, 'it\'s "odd"', "noise"]
    rows = table(
        **{
            'la"ng': [["en", "de", None, "en"][row % 4] for row in range(200)],
            "text_damage": [kinds[row % 4] for row in range(200)],
            "image_damage": [kinds[row % 3] for row in range(200)],
            "text_evidence": [(row % 7 - 3) / 3 for row in range(200)],
            "image_evidence": [(row % 5 - 2) / 3 for row in range(200)],
        }
    )
    (tmp_path / "annotations").mkdir()
    pq.write_table(rows, tmp_path / "annotations" / "part.parquet")
    places = ["annotations/part.parquet"]
    sql = sql_of_night(str(tmp_path), places, "run", [], True, True, ['la"ng'])
    found = count_histograms(rows)
    connection = duckdb.connect()
    connection.execute(sql["posts"])
    for m in ("text", "image"):
        assert dict(connection.execute(sql[f"{m}_damage"]).fetchall()) == found.damage[m]
    groups = found.groups['la"ng'] or {}
    recounted = connection.execute(sql['group la"ng']).fetchall()
    assert len(recounted) == len(groups) == 3
    for value, posts, text, image, confidence in recounted:
        sums = dict(zip(GROUP_FIELDS, groups[value or "(none)"], strict=True))
        assert (posts, confidence) == (sums["posts"], pytest.approx(sums["confidence"] / posts))
        assert text == pytest.approx(sums["text_below"] / sums["text"])
        assert image == pytest.approx(sums["image_below"] / sums["image"])
    for label, posts, *means in connection.execute(sql["evidence"]).fetchall():
        assert means == pytest.approx([sum / posts for sum in found.evidence[label]])
        assert len(means) == len(EVIDENCE_FIELDS)
