"""Labelled posts from a table whose images are files in a folder."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.corpus.images import image_bytes, image_digest
from pipelines.posts.labelled import read_training_rows
from schemas.errors import UsageError
from schemas.posts import PostColumns, parse_columns
from tests.data.corpora import IMAGE_STRUCT


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


def test_a_hugging_face_class_label_is_read_by_its_names(tmp_path: Path) -> None:
    names = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    table = pa.table({"post_id": ["a", "b", "c"], "text": ["t"] * 3, "label": [1, 0, -1]})
    said = {"huggingface": json.dumps({"info": {"features": names}})}
    pq.write_table(table.replace_schema_metadata(said), tmp_path / "posts.parquet")
    found = read_training_rows([str(tmp_path)], parse_columns(["image="]), "label")
    assert [row.label for row in found] == ["good", "bad", None]


def test_images_that_are_only_named_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    image = pa.array([{"bytes": None, "path": "1.jpg"}], IMAGE_STRUCT)
    table = pa.table({"post_id": ["a"], "text": ["t"], "label": ["good"], "image": image})
    pq.write_table(table, tmp_path / "posts.parquet")
    with pytest.raises(UsageError, match=r"row 0 only names its image, 1.jpg; say with --image-f"):
        read_training_rows([str(tmp_path / "posts.parquet")], parse_columns([]), "label")
    (tmp_path / "1.jpg").write_bytes(b"one")
    columns = parse_columns([], str(tmp_path))
    [row] = read_training_rows([str(tmp_path / "posts.parquet")], columns, "label")
    assert row.image == b"one"


def test_images_of_a_corpus_lie_in_a_file_and_not_in_memory(tmp_path: Path) -> None:
    images = [bytes([number]) * 200_000 for number in range(60)]
    table = pa.table({"post_id": [str(n) for n in range(60)], "text": ["t"] * 60, "image": images})
    pq.write_table(table, tmp_path / "posts.parquet")
    images = [image_digest(image) for image in images]
    tracemalloc.start()
    try:
        found = read_training_rows([str(tmp_path)], PostColumns(), None, folder=tmp_path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert [image_digest(image_bytes(row.image)) for row in found] == images
    assert found[3].image == found[3].image != found[4].image
    # It has no name, and so is gone however the process ends.
    assert [path.name for path in tmp_path.iterdir()] == ["posts.parquet"]


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
