from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipelines.annotate.output.histograms import (
    BINS,
    MOST_GROUPS,
    Histograms,
    count_histograms,
    sum_histograms,
)
from pipelines.annotate.output.partition_state import read_ledger
from pipelines.storage.files import open_store
from tests.data.corpora import write_nights
from tests.support.nights.stand_in import run_job

STATES = ("present", "low_quality", "recovered")


def table(rows: int = 200, **columns: list[object]) -> pa.Table:
    """Annotations as far as histograms look at them, every bin's edge among the values."""
    confidence = [(row % 21) / 20 for row in range(rows)]
    fields: dict[str, list[object]] = {
        "label": [("positive", "negative")[row % 2] for row in range(rows)],
        "confidence": confidence,
        "text_state": [STATES[row % 3] for row in range(rows)],
        "text_quality": [(row % 40 + 1) / 40 for row in range(rows)],
        "image_state": [STATES[row % 2] for row in range(rows)],
        "image_quality": [0.05 if row % 5 else 0.049 for row in range(rows)],
        **columns,
    }
    floats = {name: pa.float32() for name in ("confidence", "text_quality", "image_quality")}
    return pa.table({name: pa.array(of, floats.get(name)) for name, of in fields.items()})


def test_the_bins_are_those_that_duckdb_counts() -> None:
    rows = table()
    found = count_histograms(rows)
    for modality in ("text", "image"):
        for state in set(rows[f"{modality}_state"].to_pylist()):
            bins = duckdb.sql(
                f"select least(floor({modality}_quality::double * 20), 19)::int as bin, count(*) "
                f"from rows where {modality}_state = '{state}' group by bin"
            ).fetchall()
            assert found.quality[modality][state] == [dict(bins).get(bin, 0) for bin in range(BINS)]
    sums = duckdb.sql(
        "select label, sum(confidence::double), sum(confidence::double ** 2) from rows group by 1"
    ).fetchall()
    for label, total, squares in sums:
        assert found.moments["label"][label] == pytest.approx([total, squares])
    assert sum(map(sum, found.confidence.values())) == rows.num_rows


def test_sums_do_not_depend_on_how_rows_are_cut() -> None:
    rows = table(lang=["en" if row % 3 else None for row in range(200)])
    whole = count_histograms(rows)
    cut = sum_histograms(count_histograms(rows.slice(start, 37)) for start in range(0, 200, 37))
    assert cut.quality == whole.quality and cut.confidence == whole.confidence
    assert cut.groups.keys() == whole.groups.keys()
    for value, sums in (whole.groups["lang"] or {}).items():
        assert (cut.groups["lang"] or {})[value] == pytest.approx(sums)


def test_a_kept_column_that_groups_nothing_leaves_no_values() -> None:
    rows = table(
        user=[f"user {row}" for row in range(200)],
        note=["word " * 20] * 200,
        score=[0.5] * 200,
    )
    assert count_histograms(rows).groups == {"user": None, "note": None, "score": None}
    many = [Histograms(groups={"lang": {str(n): [1.0] * 7}}) for n in range(MOST_GROUPS + 1)]
    assert sum_histograms(many).groups == {"lang": None}


def test_groups_count_what_could_be_used_and_what_is_strange() -> None:
    rows = table(6, lang=["en", "en", "en", "de", "de", "de"])
    groups = count_histograms(rows).groups["lang"]
    assert groups is not None
    # Of three texts one is recovered; rows 0 and 5 have an image below .05.
    assert groups["en"][:5] == [3, 2, 1, 3, 1]
    assert groups["de"][:5] == [3, 2, 0, 3, 1]


def test_no_rows_leave_empty_histograms() -> None:
    assert sum_histograms([count_histograms(table().slice(0, 0)), Histograms()]).confidence == {}


def test_they_travel_with_the_commit_into_the_ledger(tmp_path: Path) -> None:
    write_nights(tmp_path / "in", ["2026-11-17"])
    run_job(tmp_path / "out", tmp_path / "in")
    ledger = read_ledger(open_store(str(tmp_path / "out")), "dt=2026-11-17")
    assert ledger is not None
    counted = [s.counts for file in ledger.files.values() for s in file.shards]
    assert sum(sum(map(sum, c.histograms.confidence.values())) for c in counted) == 20
    # A shard's histograms stay small beside its parts.
    assert all(len(json.dumps(vars(c.histograms))) < 2_000 for c in counted)
