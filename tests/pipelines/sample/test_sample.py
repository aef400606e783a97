"""The sample: small, whole, the same every time, and never in the way of other files."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sample.command import NIGHTS, make_sample
from schemas.errors import UsageError
from schemas.posts import PostColumns, check_posts_schema
from tests.data.draw_sample import night_bytes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def posts(files: list[Path]) -> list[dict]:
    return [
        {**post, "dt": path.parent.name}
        for path in files
        for post in pq.read_table(path, partitioning=None).to_pylist()
    ]


def test_it_is_two_nights_of_some_forty_posts(files: list[Path], posts: list[dict]):
    assert [path.parent.name for path in files] == ["dt=2026-11-20", "dt=2026-11-21"]
    assert 40 <= len(posts) <= 50
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in files:
        check_posts_schema(pq.read_schema(path), PostColumns(), ("lang", "created_at"), path.name)


def test_it_holds_the_faults_of_a_real_export(posts: list[dict]):
    ids = [post["post_id"] for post in posts]
    texts = [post["text"] for post in posts]
    images = [post["image"] for post in posts]
    assert ids.count(None) == 1
    assert len(ids) - len(set(ids)) == 1
    assert None in texts and any(text is not None and not text.strip() for text in texts)
    assert None in images and any(
        image is not None and image[:9] == b"<!DOCTYPE" for image in images
    )
    assert sum(post["text"] is None and post["image"] is None for post in posts) == 1
    assert max(len(text or "") for text in texts) > 2_000

    broken, formats = 0, set()
    for image in images:
        if image is None or image.startswith(b"<"):
            continue
        picture = Image.open(io.BytesIO(image))
        try:
            picture.load()
        except OSError:
            broken += 1
        rotated = picture.getexif().get(0x0112, 1) != 1
        formats.add((picture.format, picture.mode, "rotated" if rotated else ""))
        formats.add(picture.size)
    assert broken == 1
    assert {
        ("WEBP", "RGB", ""),
        ("JPEG", "CMYK", ""),
        ("JPEG", "L", ""),
        ("JPEG", "RGB", "rotated"),
        ("PNG", "RGBA", ""),
        (1, 1),
    } <= formats


def test_no_night_has_more_dead_letters_than_a_job_accepts(posts: list[dict]):
    for night in {post["dt"] for post in posts}:
        of_night = [post for post in posts if post["dt"] == night]
        dead = [
            post
            for post in of_night
            if post["post_id"] is None or (post["text"] is None and post["image"] is None)
        ]
        assert 0 < len(dead) <= 0.05 * len(of_night)


def test_it_is_what_the_drawing_code_makes(posts: list[dict]):
    drawn = [
        {**post, "dt": f"dt={night.stem}"}
        for night in NIGHTS
        for post in pq.read_table(io.BytesIO(night_bytes(night.stem))).to_pylist()
    ]
    # Another version of Pillow may encode a picture into other bytes.
    assert [{**post, "image": post["image"] is None} for post in posts] == [
        {**post, "image": post["image"] is None} for post in drawn
    ]


def test_a_sample_that_is_there_is_left_as_it_is(tmp_path: Path):
    before = [path.stat() for path in make_sample(tmp_path)]
    after = [path.stat() for path in make_sample(tmp_path)]
    assert [(stat.st_ino, stat.st_mtime_ns) for stat in before] == [
        (stat.st_ino, stat.st_mtime_ns) for stat in after
    ]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_sample_of_another_version_is_replaced(tmp_path: Path):
    first, second = make_sample(tmp_path)
    expected = first.read_bytes()
    pq.write_table(pq.read_table(first, partitioning=None).slice(0, 3), first)
    assert make_sample(tmp_path) == [first, second]
    assert first.read_bytes() == expected


def test_other_files_are_not_overwritten(tmp_path: Path):
    path = tmp_path / "dt=2026-11-20" / "sample.parquet"
    path.parent.mkdir()
    path.write_bytes(b"somebody's work")
    with pytest.raises(UsageError, match="holds something else than the sample"):
        make_sample(tmp_path)
    assert path.read_bytes() == b"somebody's work"


def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path):
    (tmp_path / "sample").write_bytes(b"")
    with pytest.raises(UsageError, match="there is a file in the way"):
        make_sample(tmp_path / "sample")
