"""No post and no file of a night stops, slows or empties it."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pipelines.annotate.output.attempts import list_attempts
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.inputs import read_footer
from pipelines.storage.backends import open_url
from pipelines.storage.files import open_store
from tests.data.corpora import image_bytes, make_posts, write_posts
from tests.support import hostile_files
from tests.support.running import Output, annotate_arguments, start_drf


def test_one_poison_of_each_kind_costs_itself_alone(
    tmp_path: Path, annotate, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that has other things to do grants the three times of it: what is slow takes half a
    # minute on one that has not, so that no faster one is done with it in time.
    monkeypatch.setattr("pipelines.annotate.work.model.DECODE_SECONDS", 2.0)
    night = tmp_path / "night"
    poison = hostile_files.hostile_images()
    posts = make_posts(12)
    posts += [
        {"post_id": name, "text": "fine", "image": data} for name, (data, _) in poison.items()
    ]
    write_posts(night / "posts.parquet", posts)
    hostile_files.repeated_value(night / "ids.parquet", "post_id", 20 << 20, rows=64)
    hostile_files.repeated_value(night / "texts.parquet", "text", 60 << 20, rows=64)
    hostile_files.repeated_value(night / "images.parquet", "image", 20 << 20, rows=112)
    broken = hostile_files.hostile_footers(night)
    crashing = hostile_files.mutated_parquet(seed=5)
    for number, content in enumerate(itertools.islice(crashing, 12)):
        (night / f"mutated-{number}.parquet").write_bytes(content)

    run = annotate(night, "--max-dead-letter-share", "1", "--image-formats", "tiff")

    assert run.code == 4
    failed = {name for name in run.manifest["failed_files"] if not name.startswith("mutated")}
    # Names alone were swapped there: the columns lie where they did, and are read.
    assert failed == {*broken} - {"swapped.parquet"}
    places = output.places()
    assert len(places) == len(set(places))
    files = Counter(file for file, _ in places)
    kinds = ("posts", "ids", "texts", "images", "swapped")
    assert {name: files[f"{name}.parquet"] for name in kinds} == {
        "posts": 12 + len(poison),
        "ids": 64,
        "texts": 64,
        "images": 112,
        "swapped": 12,
    }
    found = {row["post_id"]: row for row in output.annotations}
    assert {f"p{n}" for n in range(12)} | {f"r{n}" for n in range(112)} <= found.keys()
    assert {name: found[name]["image_reason"] for name in poison} == {
        name: reason for name, (_, reason) in poison.items()
    }
    lost = [row for row in output.dead_letters if row["source_file"] == "ids.parquet"]
    assert {row["message"] for row in lost} == {"post_id is longer than 1,024 characters"}
    assert len(lost) == 64


def test_mutated_footers_fail_their_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    failed = 0
    for content in itertools.islice(hostile_files.mutated_parquet(seed=11), 300):
        path.write_bytes(content)
        try:
            read_footer(*open_url(str(path)))
        except CorruptInputError as error:
            failed += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert failed > 20


def test_an_interrupt_ends_within_seconds_and_names_what_was_being_decoded(
    tmp_path: Path, output: Output, tiny_checkpoint: Path
) -> None:
    slow = hostile_files.slow_jpeg()
    posts = [{"post_id": str(n), "text": "t", "image": slow + bytes([n])} for n in range(40)]
    write_posts(tmp_path / "night" / "posts.parquet", [*posts, *make_posts(3)])
    process = start_drf(annotate_arguments(tmp_path / "night", output, tiny_checkpoint))
    try:
        deadline = time.monotonic() + 120
        while not list(output.root.rglob("*attempts*/*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(4)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert process.wait(60) == 130
        # A machine that is not busy takes two; what waits to be decoded would take minutes.
        assert time.monotonic() - start < 20
        [attempt] = list_attempts(open_store(str(output.root)))
        assert attempt.suspects and {kind for _, kind in attempt.suspects} == {"image"}
    finally:
        process.kill()


def test_a_sound_night_loses_nothing_to_the_limits(tmp_path: Path, annotate, output: Output):
    posts = make_posts(20)
    posts += [{"post_id": "large", "text": None, "image": image_bytes(size=(3000, 2500))}]
    write_posts(tmp_path / "posts.parquet", posts)
    assert annotate(tmp_path / "posts.parquet").code == 0
    assert len(output.annotations) == 21
