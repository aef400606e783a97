"""Nightly habits: run again, killed and resumed, changed, removed, added, two at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.storage.files import open_store
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.support.running import SLOW, Output, Run, annotate_arguments, start_drf

Annotate = Callable[..., Run]


def test_the_second_run_infers_nothing_and_changes_no_byte(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = output.files()
    inferred.clear()

    run = annotate(tmp_path / "in")

    assert run.code == 0
    assert inferred == []
    assert output.files() == before
    assert run.manifest["computed_rows"] == 0
    assert run.manifest["skipped_rows"] == 40
    assert run.manifest["totals"]["annotations"] == 40


def test_a_night_with_nothing_to_do_imports_neither_torch_nor_beam(
    tmp_path: Path, annotate: Annotate, output: Output, tiny_checkpoint: Path
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    prelude = """
import atexit, sys
def check():
    loaded = {"torch", "apache_beam", "transformers"} & set(sys.modules)
    if loaded:
        print("imported:", loaded, file=sys.stderr)
atexit.register(check)
"""

    process = start_drf(annotate_arguments(tmp_path / "in", output, tiny_checkpoint), prelude)
    _, err = process.communicate()

    assert (process.returncode, err) == (0, "")


def test_killed_half_way_what_was_committed_stays_and_only_the_rest_is_done(
    tmp_path: Path, annotate: Annotate, output: Output, tiny_checkpoint: Path, inferred: list[int]
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(300), row_group_rows=30)
    arguments = [*annotate_arguments(source, output, tiny_checkpoint), "--shard-rows", "30"]
    process = start_drf(arguments, SLOW)
    store = open_store(str(output.root))
    _wait_until(lambda: len(committed_keys(store)) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    committed = committed_keys(store)
    assert not output.succeeded()
    assert output.places() == []

    run = annotate(source, "--shard-rows", "30")

    assert run.code == 0, run.err
    assert output.places() == [("posts.parquet", row) for row in range(300)]
    assert sum(inferred) == run.manifest["computed_rows"] == 300 - 30 * len(committed)


@pytest.mark.parametrize("folders", [1, 3])
def test_killed_while_publishing_the_next_run_finishes_without_inference(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    tiny_checkpoint: Path,
    inferred: list[int],
    folders: int,
) -> None:
    write_nights(tmp_path / "in")
    prelude = f"""
import os, signal
rename, done = os.rename, []
def deadly(source, target):
    rename(source, target)
    if "prepared" in source:
        done.append(target)
    if len(done) == {folders}:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = deadly
"""
    process = start_drf(annotate_arguments(tmp_path / "in", output, tiny_checkpoint), prelude)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(output.succeeded()) < 2

    run = annotate(tmp_path / "in")

    assert (run.code, inferred) == (0, [])
    assert len(output.places()) == len(set(output.places())) == 40
    assert len(output.succeeded()) == 2


def test_a_signal_to_stop_ends_the_attempts_in_an_orderly_way(
    tmp_path: Path, output: Output, tiny_checkpoint: Path
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(300))
    store = open_store(str(output.root))
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start_drf(annotate_arguments(source, output, tiny_checkpoint), SLOW)
        _wait_until(lambda: bool(store.sizes(layout.ATTEMPTS)), process)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)

        assert process.returncode == 130
        assert err == "drf: interrupted; the same command goes on from what was committed\n"
        assert store.sizes(layout.ATTEMPTS) == {}
        assert store.sizes(layout.STAGED_PARTS) == {}


def test_a_changed_file_has_exactly_its_parts_replaced(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = output.files()
    write_posts(paths[0], make_posts(10, first=500))
    inferred.clear()

    run = annotate(tmp_path / "in")

    assert (run.code, sum(inferred)) == (0, 10)
    after = output.files()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    old, new = changed & before.keys(), changed & after.keys()
    assert {name.split("/")[1] for name in changed} == {"dt=2026-11-17"}
    # One part went, another came, and the ledger says so.
    assert len([name for name in old if name.endswith(".parquet")]) == 1
    assert len([name for name in new if name.endswith(".parquet")]) == 1
    assert sorted(output.places()) == sorted(
        (str(path.relative_to(tmp_path / "in")), row) for path in paths for row in range(10)
    )


def test_a_file_that_shrank_leaves_no_part_behind_and_others_keep_their_bytes(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    paths = write_nights(
        tmp_path / "in", nights=("2026-11-17",), files_per_night=2, row_group_rows=5
    )
    shards = ("--shard-rows", "5", "--part-bytes", "1")
    annotate(tmp_path / "in", *shards)
    before = output.files()
    write_posts(paths[0], make_posts(4, first=500), row_group_rows=5)
    inferred.clear()

    run = annotate(tmp_path / "in", *shards)

    assert run.code == 0, run.err
    assert sum(inferred) == 4
    files = {file["source_file"]: file for file in run.manifest["files"]}
    changed = files["dt=2026-11-17/part-00000.parquet"]
    other = files["dt=2026-11-17/part-00001.parquet"]
    assert (changed["rows"], len(changed["parts"]), changed["status"]) == (4, 1, "published")
    assert other["status"] == "up_to_date"
    after = output.files()
    for part in other["parts"]:
        name = f"annotations/dt=2026-11-17/{part}"
        assert after[name] == before[name]
    assert sum(name.endswith(".parquet") for name in after) == 3
    assert len(output.places()) == 14


def test_a_changed_model_replaces_every_part(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    make_tiny_checkpoint: Callable[..., Path],
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = {row["model_revision"] for row in output.annotations}
    other = make_tiny_checkpoint(seed=3)

    run = annotate(tmp_path / "in", "--model", other)

    assert run.code == 0, run.err
    after = {row["model_revision"] for row in output.annotations}
    assert len(after) == 1 and not after & before
    assert len(output.places()) == len(set(output.places())) == 40


def test_another_label_set_is_refused(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    make_tiny_checkpoint: Callable[..., Path],
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = output.files()

    run = annotate(tmp_path / "in", "--model", make_tiny_checkpoint(labels=("bad", "good")))

    assert run.code == 2
    assert "labels" in run.err
    assert output.files() == before


def test_a_removed_file_is_an_orphan_until_it_is_pruned(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    paths[0].unlink()
    name = str(paths[0].relative_to(tmp_path / "in"))

    reported = annotate(tmp_path / "in")
    kept = len(output.places())
    pruned = annotate(tmp_path / "in", "--prune")

    assert (reported.code, reported.manifest["orphans"], kept) == (0, [name], 40)
    assert (pruned.code, pruned.manifest["pruned"]) == (0, [name])
    assert len(output.places()) == 30
    assert name not in {file for file, _ in output.places()}
    assert len(output.succeeded()) == 2


def test_prune_touches_nothing_outside_the_roots_given(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    paths[0].unlink()

    run = annotate(tmp_path / "in" / "dt=2026-11-18", "--prune")

    assert (run.code, run.manifest["pruned"]) == (0, [])
    assert len(output.places()) == 40


def test_prune_refuses_an_input_that_is_empty_or_gone(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    for path in paths:
        path.unlink()

    run = annotate(tmp_path / "in", "--prune")

    assert run.code == 2
    assert len(output.places()) == 40


def test_an_added_night_runs_alone(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = output.files()
    write_posts(tmp_path / "in" / "dt=2026-11-19" / "new.parquet", make_posts(5, first=900))
    inferred.clear()

    run = annotate(tmp_path / "in")

    assert run.code == 0
    assert sum(inferred) == run.manifest["computed_rows"] == 5
    assert before.items() <= output.files().items()
    assert len(output.succeeded()) == 3


def test_passing_faults_are_tried_again_with_retry_only(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    posts = [{**post, "image_uri": str(pictures / "late.jpg")} for post in make_posts(3)]
    types = {"post_id": pa.string(), "text": pa.string(), "image_uri": pa.string()}
    write_posts(tmp_path / "in" / "posts.parquet", posts, types=types)
    write_posts(tmp_path / "in" / "others.parquet", make_posts(20))
    options = ("--image-uri-prefix", pictures)
    annotate(tmp_path / "in", *options)
    assert sum(row["image_reason"] == "gone" for row in output.annotations) == 3
    (pictures / "late.jpg").write_bytes(make_posts(1)[0]["image"])
    inferred.clear()

    without = annotate(tmp_path / "in", *options)
    assert (without.manifest["computed_rows"], inferred) == (0, [])
    retried = annotate(tmp_path / "in", *options, "--retry", "fetch_failed")
    after = annotate(tmp_path / "in", *options)

    assert retried.manifest["computed_rows"] == 3
    assert {row["image_reason"] for row in output.annotations} == {None}
    assert after.manifest["computed_rows"] == 0
    assert len(output.places()) == 23


def test_two_runs_at_once_on_one_output_lose_and_double_nothing(
    tmp_path: Path, output: Output, tiny_checkpoint: Path
) -> None:
    write_nights(tmp_path / "in", posts_per_file=30)
    arguments = [
        *annotate_arguments(tmp_path / "in", output, tiny_checkpoint),
        *("--shard-rows", "10"),
    ]
    runs = [start_drf([*arguments, "--run-id", f"run-{n}"]) for n in range(2)]
    ended = [run.communicate() for run in runs]

    assert [run.returncode for run in runs] == [0, 0], ended
    places = output.places()
    assert len(places) == len(set(places)) == 120
    assert len(output.succeeded()) == 2
    store = open_store(str(output.root))
    assert store.sizes(layout.ATTEMPTS) == {}


def test_a_part_that_somebody_deleted_is_made_again(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_nights(tmp_path / "in", nights=("2026-11-17",))
    annotate(tmp_path / "in")
    next((output.root / "annotations").rglob("*.parquet")).unlink()

    run = annotate(tmp_path / "in")

    assert (run.code, run.manifest["computed_rows"]) == (0, 20)
    assert len(output.places()) == 20


def _wait_until(condition: Callable[[], bool], process: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
