from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import pytest

from pipelines.annotate.manifest import build_manifest, read_manifest, write_manifest
from pipelines.annotate.publish.partition_tasks import partition_tasks
from pipelines.annotate.publish.publish_partition import publish_partition
from pipelines.storage.files import open_store
from schemas.manifest import Manifest, from_json
from tests.data.corpora import damage_footer, make_posts, write_nights, write_posts
from tests.support.nights.stand_in import annotate, annotate_shard, plan_run, publish, run_job

FIRST = "dt=2026-11-17/part-00000.parquet"
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two nights of one file each: ten posts with three faults, and five good posts."""
    posts = make_posts(9)
    posts[1]["text"] = posts[2]["text"] = None
    posts[3]["post_id"] = None
    write_posts(tmp_path / "in" / FIRST, [*posts, posts[0]])
    write_nights(tmp_path / "in", ["2026-11-18"], files_per_night=1, posts_per_file=5)
    return tmp_path / "in"


def files(manifest: Manifest) -> dict[str, tuple[int, int, int, int, str]]:
    return {
        file.source_file: (
            file.rows,
            file.annotations,
            file.dead_letters,
            len(file.parts),
            file.status,
        )
        for file in manifest.files
    }


SECOND = "dt=2026-11-18/part-00000.parquet"


def test_totals_are_what_was_published(corpus: Path, tmp_path: Path) -> None:
    manifest, _ = run_job(tmp_path / "out", corpus)
    totals = manifest.totals
    assert (totals.files, totals.rows) == (2, 15)
    assert (totals.annotations, totals.dead_letters) == (14, 1)
    assert totals.duplicate_ids == 1
    assert sum(totals.labels.values()) == 14
    assert totals.states == {"text": {"present": 12, "recovered": 2}, "image": {"present": 14}}
    assert totals.reasons == {"text": {"missing": 2}, "image": {}}
    assert totals.dead_letter_reasons == {"no_post_id": 1}
    assert files(manifest) == {
        FIRST: (10, 9, 1, 1, "published"),
        SECOND: (5, 5, 0, 1, "published"),
    }
    assert (manifest.status, manifest.exit_code) == ("done", 0)
    assert (manifest.computed_rows, manifest.skipped_rows) == (15, 0)


def test_a_run_with_nothing_to_do_reports_the_same_rows(corpus: Path, tmp_path: Path) -> None:
    first, _ = run_job(tmp_path / "out", corpus)
    second, _ = run_job(tmp_path / "out", corpus)
    assert second.totals == first.totals
    assert {status for *_, status in files(second).values()} == {"up_to_date"}
    assert (second.computed_rows, second.skipped_rows) == (0, 15)


def test_a_failed_file_counts_nowhere_and_shows_the_parts_that_stay(
    corpus: Path, tmp_path: Path
) -> None:
    run_job(tmp_path / "out", corpus)
    damage_footer(corpus / FIRST)
    manifest, _ = run_job(tmp_path / "out", corpus)
    assert files(manifest)[FIRST] == (10, 9, 1, 1, "failed")
    assert {file.source_file: file.earlier for file in manifest.files} == {
        FIRST: True,
        SECOND: False,
    }
    assert manifest.totals.rows == manifest.totals.annotations == 5
    assert manifest.totals.failed_files == 1
    assert manifest.failed_files == [FIRST]
    assert (manifest.status, manifest.exit_code) == ("failed_files", 4)
    (error,) = [file.error for file in manifest.files if file.error]
    assert "corrupt Parquet footer" in error


def test_it_names_the_content_that_was_read(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(tmp_path / "out", corpus)
    damage_footer(corpus / FIRST)
    manifest, _ = run_job(tmp_path / "out", corpus)
    identities = {file.source_file: file.identity for file in manifest.files}
    assert identities == {FIRST: None, SECOND: plan.files[1].identity}


def test_a_partition_that_an_earlier_run_left_incomplete_says_why(
    corpus: Path, tmp_path: Path
) -> None:
    write_posts(corpus / "dt=2026-11-17" / "b.parquet", make_posts(2))
    damage_footer(corpus / FIRST)
    run_job(tmp_path / "out", corpus)
    manifest, computed = run_job(tmp_path / "out", corpus / "dt=2026-11-17" / "b.parquet")
    assert not computed
    assert manifest.partitions == {"dt=2026-11-17": "failed"}
    (warning,) = manifest.warnings
    assert warning.startswith("partition dt=2026-11-17: no _SUCCESS: ")
    assert "corrupt Parquet footer" in warning


def test_duplicates_of_other_files_are_not_told_of_a_file_that_failed(
    corpus: Path, tmp_path: Path
) -> None:
    run_job(tmp_path / "out", corpus)
    bad = write_posts(corpus / "dt=2026-11-17" / "b.parquet", make_posts(2))
    damage_footer(bad)
    manifest, _ = run_job(tmp_path / "out", bad)
    assert manifest.totals.duplicate_ids == 0


def test_a_run_repeated_under_its_id_keeps_the_earlier_manifest(
    corpus: Path, tmp_path: Path
) -> None:
    first, _ = run_job(tmp_path / "out", corpus)
    write_manifest(str(tmp_path / "out"), first)
    later = dataclasses.replace(first, started_at="2026-11-22T03:00:00+00:00")
    write_manifest(str(tmp_path / "out"), later)
    assert read_manifest(str(tmp_path / "out"), first.run_id).started_at == later.started_at
    kept = (tmp_path / "out" / "_runs" / first.run_id).glob("manifest-*.json")
    starts = [from_json(path.read_text()).started_at for path in kept]
    assert sorted(starts) == sorted([first.started_at, later.started_at])


def test_a_file_that_a_worker_gave_up_counts_as_failed(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(tmp_path / "out", corpus)
    annotate(plan)
    results = publish(plan, {FIRST: "a page is corrupt"})
    manifest = build_manifest(plan, results, started=NOW)
    assert files(manifest)[FIRST][-1] == "failed"
    assert manifest.partitions == {"dt=2026-11-17": "failed", "dt=2026-11-18": "published"}
    assert manifest.exit_code == 4


@pytest.mark.parametrize("committed", [0, 2])
def test_what_is_not_committed_makes_the_run_fail(
    corpus: Path, tmp_path: Path, committed: int
) -> None:
    plan = plan_run(tmp_path / "out", corpus)
    for shard in plan.shards[FIRST][:committed]:
        annotate_shard(plan.options, shard)
    manifest = build_manifest(plan, publish(plan), started=NOW)
    assert manifest.partitions["dt=2026-11-17"] == "incomplete"
    assert manifest.exit_code == 1


def test_withheld_by_strict_the_failed_file_gives_the_exit_code(
    corpus: Path, tmp_path: Path
) -> None:
    damage_footer(corpus / FIRST)
    plan = plan_run(tmp_path / "out", corpus)
    annotate(plan)
    results = {
        partition: publish_partition(plan.options, task, withhold="--strict: a file failed")
        for partition, task in partition_tasks(plan).items()
    }
    manifest = build_manifest(plan, results, started=NOW)
    assert manifest.exit_code == 4
    assert files(manifest)[SECOND][-1] == "held_back"
    assert manifest.totals.rows == 0


def test_it_reads_back_from_where_it_was_written(corpus: Path, tmp_path: Path) -> None:
    manifest, _ = run_job(tmp_path / "out", corpus)
    place = write_manifest(str(tmp_path / "out"), manifest)
    assert place == str(tmp_path / "out" / "_runs" / "test-run" / "manifest.json")
    assert read_manifest(str(tmp_path / "out"), "test-run").totals == manifest.totals


def test_it_holds_versions_options_and_no_credentials(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(tmp_path / "out", corpus)
    rows = dataclasses.replace(
        plan.options.rows, image_uri_prefixes=("https://user:secret@host/images/",)
    )
    options = dataclasses.replace(
        plan.options, rows=rows, model="ftp://user:secret@host/model", model_id="s3://b/m"
    )
    manifest = build_manifest(dataclasses.replace(plan, options=options), {}, started=NOW)
    write_manifest(str(tmp_path / "out"), manifest)
    text = (open_store(str(tmp_path / "out")).read("_runs/test-run/manifest.json") or b"").decode()
    assert "secret" not in text
    assert "https://host/images/" in text
    assert manifest.versions.keys() >= {"python", "pyarrow", "fsspec"}
    assert manifest.options["max_dead_letter_share"] == 1.0
