"""Labelled posts from a table whose images are files in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.posts.labelled import read_training_rows
from schemas.errors import UsageError
from schemas.posts import parse_columns


def rows(folder: Path, photo: str) -> list[tuple[str | None, str | None, bytes | None]]:
    (folder / "photos").mkdir()
    (folder / "photos" / "1.jpg").write_bytes(b"one")
    (folder / "secret.jpg").write_bytes(b"secret")
    table = folder / "posts.csv"
    table.write_text(f"id,text,photo,label\n7,sunny,1.jpg,good\n8,rain,{photo},bad\n")
    columns = parse_columns(["post_id=id", "image=photo"], str(folder / "photos"))
    return [
        (r.post_id, r.label, r.image) for r in read_training_rows([str(table)], columns, "label")
    ]


def test_images_are_read_below_the_folder_that_was_named(tmp_path: Path) -> None:
    assert rows(tmp_path, "") == [("7", "good", b"one"), ("8", "bad", None)]


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        ("2.jpg", r"row 1: its image .*2\.jpg is not there; does --image-folder name the right"),
        ("../secret.jpg", "row 1: its image lies outside --image-folder"),
        ("/etc/hostname", "row 1: its image lies outside --image-folder"),
    ],
)
def test_an_image_that_is_not_there_is_told(tmp_path: Path, photo: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        rows(tmp_path, photo)
