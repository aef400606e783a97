from __future__ import annotations

import re
from pathlib import Path

import apache_beam as beam
import pytest

from drf_core.annotator import ModalityPrediction, Prediction
from pipelines.annotate.metrics_file import format_metrics, write_metrics
from pipelines.annotate.work.beam_metrics import count_batch, count_results
from pipelines.annotate.work.rows import no_post_id
from schemas.errors import DRFError
from schemas.manifest import Manifest, Totals
from schemas.reasons import ModalityReason

_SAMPLE = re.compile(r'drf_[a-z_]+(\{([a-z_]+="(\\.|[^"\\\n])*",?)+\})? -?[0-9.e+]+')


def manifest(**labels: int) -> Manifest:
    return Manifest(
        run_id="run",
        status="done",
        exit_code=0,
        started_at="2026-11-19T01:00:00+00:00",
        finished_at="2026-11-19T01:02:00+00:00",
        model_id="tiny",
        model_revision="r1",
        package_version="0",
        totals=Totals(annotations=1_234_567, labels=labels),
        phases={"annotating": 1.5},
        seconds=120.0,
    )


def test_every_line_is_one_that_prometheus_reads() -> None:
    text = format_metrics(manifest(**{'so "good"\n\\': 3}))
    for line in text.splitlines():
        assert line.startswith("# ") or _SAMPLE.fullmatch(line), line
    assert "drf_published_posts 1234567.0" in text
    assert 'drf_labels{label="so \\"good\\"\\n\\\\"} 3.0' in text
    assert 'drf_phase_seconds{phase="annotating"} 1.5' in text
    assert text.endswith("\n")


def test_the_file_appears_whole_and_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "drf.prom"
    write_metrics(str(path), manifest(positive=1))
    assert path.read_text() == format_metrics(manifest(positive=1))
    assert [one.name for one in tmp_path.iterdir()] == ["drf.prom"]
    with pytest.raises(DRFError, match="--metrics"):
        write_metrics(str(tmp_path / "nowhere" / "drf.prom"), manifest())


class _Work(beam.DoFn):
    def process(self, _: object) -> None:
        fine = ModalityPrediction("present", 0.5, -1.5, 0.5, None, None)
        lost = ModalityPrediction("recovered", 0.5, None, 0.5, None, ModalityReason.TRUNCATED)
        letter = no_post_id(None)
        assert letter is not None
        count_results([Prediction("positive", 1.0, (1.0,), fine, lost, 1.0), letter])
        count_batch(2, 0.25)


def test_an_engine_is_told_of_posts_reasons_and_batches() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | beam.Create([1, 2]) | beam.ParDo(_Work())
    result = pipeline.run()
    found = result.metrics().query()
    counters = {one.key.metric.name: one.committed for one in found["counters"]}
    assert counters == {"posts": 4, "dead_letters_no_post_id": 2, "image_truncated": 2}
    times = {one.key.metric.name: one.committed for one in found["distributions"]}
    assert (times["batch_milliseconds"].sum, times["batch_posts"].max) == (500, 2)
