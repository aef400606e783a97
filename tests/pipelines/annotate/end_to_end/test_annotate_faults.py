"""What goes wrong: one clear line, DESIGN.md's exit code, and never half a partition."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.annotate.output import layout
from pipelines.annotate.publish import publish_partition
from pipelines.storage.files import OutputError, open_store
from tests.data.corpora import damage_footer, damage_page, make_posts, write_nights, write_posts
from tests.support.running import Output, Run, annotate_arguments, start_drf

Annotate = Callable[..., Run]


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_type(path: Path) -> None:
    types = {"post_id": pa.string(), "text": pa.int64(), "image": pa.binary()}
    posts = [{**post, "text": 7} for post in make_posts(3)]
    write_posts(path, posts, types=types)


FAULTS = {
    "corrupt footer": (damage_footer, "footer"),
    "corrupt page": (damage_page, "rows 0 to 9"),
    "empty file": (damage_empty, "empty"),
    "wrong type": (damage_type, "column 'text': found int64, expected string"),
}


@pytest.fixture(params=FAULTS.values(), ids=FAULTS.keys())
def fault(request: pytest.FixtureRequest) -> tuple[Callable[[Path], None], str]:
    return request.param


def test_a_file_that_cannot_be_read_fails_and_the_others_are_published(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    fault: tuple[Callable[[Path], None], str],
) -> None:
    damage, words = fault
    paths = write_nights(tmp_path / "in")
    damage(paths[0])
    name = str(paths[0].relative_to(tmp_path / "in"))

    run = annotate(tmp_path / "in")

    assert run.code == 4
    assert run.manifest["failed_files"] == [name]
    [error] = [file["error"] for file in run.manifest["files"] if file["error"]]
    assert words in error and "part-00000.parquet" in error and "\n" not in error
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: ") and line.count(name) == 1 and words in line
    assert output.succeeded() == ["dt=2026-11-18"]
    assert len(output.places()) == 30
    assert name not in {file for file, _ in output.places()}


def test_a_file_that_breaks_later_keeps_its_earlier_parts(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
    fault: tuple[Callable[[Path], None], str],
) -> None:
    paths = write_nights(tmp_path / "in")
    annotate(tmp_path / "in")
    before = output.places()
    fault[0](paths[0])

    broken = annotate(tmp_path / "in")

    assert broken.code == 4
    assert output.places() == before
    assert output.succeeded() == ["dt=2026-11-18"]
    write_posts(paths[0], make_posts(10))
    assert annotate(tmp_path / "in").code == 0
    assert output.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


@pytest.mark.parametrize("damage", [damage_footer, damage_page])
def test_strict_publishes_nothing_where_a_file_failed(
    tmp_path: Path, annotate: Annotate, output: Output, damage: Callable[[Path], None]
) -> None:
    paths = write_nights(tmp_path / "in")
    damage(paths[0])

    strict = annotate(tmp_path / "in", "--strict")

    assert strict.code == 4
    assert output.places() == []
    assert output.succeeded() == []
    relaxed = annotate(tmp_path / "in")
    assert (relaxed.code, relaxed.manifest["computed_rows"]) == (4, 0)
    assert len(output.places()) == 30


def test_a_partition_with_too_many_dead_letters_is_held_back(
    tmp_path: Path, annotate: Annotate, output: Output, inferred: list[int]
) -> None:
    write_nights(tmp_path / "in")
    lost = [{"post_id": f"lost{number}", "text": None, "image": None} for number in range(4)]
    write_posts(tmp_path / "in" / "dt=2026-11-17" / "lost.parquet", lost)

    held = annotate(tmp_path / "in")

    assert held.code == 3
    [line] = held.err.splitlines()
    assert line.startswith("drf: error: partition dt=2026-11-17: held back: 4 of 24 posts")
    assert held.manifest["partitions"] == {
        "dt=2026-11-17": "held_back",
        "dt=2026-11-18": "published",
    }
    assert output.succeeded() == ["dt=2026-11-18"]
    assert len(output.places()) == 20
    inferred.clear()
    released = annotate(tmp_path / "in", "--max-dead-letter-share", "0.2")
    assert (released.code, inferred) == (0, [])
    assert len(output.places()) == 44


def test_a_model_that_breaks_down_fails_the_run_in_one_line_and_can_be_resumed(
    tmp_path: Path, annotate: Annotate, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drf_core.annotator import Annotator

    def broken(self: Annotator, posts: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    write_nights(tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(Annotator, "predict", broken)
        run = annotate(tmp_path / "in")

    assert run.code == 1
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: the model fails on every post of a batch (RuntimeError)")
    assert output.places() == []
    assert annotate(tmp_path / "in").code == 0
    assert len(output.places()) == 40


def test_a_partition_that_cannot_be_proven_does_not_keep_the_others_from_readers(
    tmp_path: Path, annotate: Annotate, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = publish_partition.pack

    def doubting(store: Any, partition: str, *others: Any) -> Any:
        if partition == "dt=2026-11-17":
            raise OutputError("a row is missing")
        return pack(store, partition, *others)

    write_nights(tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(publish_partition, "pack", doubting)
        run = annotate(tmp_path / "in")

    assert run.code == 1
    [line] = run.err.splitlines()
    assert "dt=2026-11-17" in line and "a row is missing" in line
    assert output.succeeded() == ["dt=2026-11-18"]
    assert annotate(tmp_path / "in").code == 0
    assert len(output.places()) == 40


@pytest.mark.parametrize("name", ["file/out", "/proc/out"])
def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, drf: Annotate, tiny_checkpoint: Path, name: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    source = write_posts(tmp_path / "posts.parquet", make_posts(3))

    run = drf(*annotate_arguments(source, Output(tmp_path / name), tiny_checkpoint))

    assert run.code == 1
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: cannot write ")
    assert str(tmp_path / name) in line or "/proc/out" in line


def test_a_file_size_limit_met_while_writing_leaves_no_half_partition(
    tmp_path: Path, output: Output, tiny_checkpoint: Path, annotate: Annotate
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(200))
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))"

    process = start_drf(annotate_arguments(source, output, tiny_checkpoint), prelude)
    _, err = process.communicate()

    assert process.returncode == 1
    [line] = err.splitlines()
    assert line.startswith("drf: error: cannot write ") and "File too large" in line
    assert output.places() == []
    assert open_store(str(output.root)).sizes(layout.STAGED_PARTS) == {}
    assert annotate(source).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_partition(
    tmp_path: Path, small_disk: Path, drf: Annotate, tiny_checkpoint: Path
) -> None:
    write_nights(tmp_path / "in", posts_per_file=300)
    output = Output(small_disk / "out")

    run = drf(*annotate_arguments(tmp_path / "in", output, tiny_checkpoint), "--shard-rows", "50")

    assert run.code == 1
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: ") and "No space left on device" in line
    assert output.succeeded() == []
    assert output.places() == []


def test_a_text_is_in_no_message_log_or_manifest(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    posts = make_posts(30)
    posts[3] |= {"text": "confidential words", "image": b"<html>confidential</html>"}
    posts[4] |= {"post_id": None, "text": "confidential words"}
    write_posts(tmp_path / "posts.parquet", posts)

    run = annotate(tmp_path / "posts.parquet")

    assert run.code == 0
    assert "confidential" not in run.out + run.err
    for path in output.root.rglob("*"):
        assert path.is_dir() or b"confidential" not in path.read_bytes(), path
