"""A value that fills memory costs its own post, whatever it is nested in, not its file."""

from __future__ import annotations

import random
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from drf_core.decoding.children import Children, Limits
from pipelines.posts import reading
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.parsing import _cut
from schemas.posts import PostColumns, check_posts_schema
from tests.data.corpora import image_bytes, make_posts, write_posts
from tests.pipelines.posts.test_reading import make_shard

HUGE = random.Random(1).randbytes(60_000_000)


@pytest.fixture
def small_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes gigabytes of readers' memory takes megabytes here."""
    monkeypatch.setattr(reading, "_READERS", Children())
    monkeypatch.setattr(reading, "_LIMITS", Limits(60.0, 100 << 20))
    monkeypatch.setattr(reading, "_LARGE_LIMITS", Limits(60.0, 400 << 20))


def read_posts(path: Path, schema: pa.Schema, rows: int) -> list[dict]:
    layout = check_posts_schema(schema, PostColumns(), (), path.name)
    fs, shard = fsspec.filesystem("file"), make_shard(path, 0, rows, (0,))
    batches = reading.read_unit_rows(fs, str(path), [shard], layout, max_image_bytes=1_000_000)
    return [post for _, _, batch in batches for post in batch.to_pylist()]


@pytest.mark.parametrize("column", ["post_id", "text", "image"])
def test_of_a_huge_value_the_beginning_is_read_and_its_neighbours_are_whole(
    tmp_path: Path, small_children: None, column: str
) -> None:
    posts = make_posts(40)
    posts[20][column] = HUGE if column == "image" else "x" * len(HUGE)
    path = write_posts(tmp_path / "posts.parquet", posts)
    schema = pa.schema({"post_id": pa.string(), "text": pa.string(), "image": pa.binary()})
    found = read_posts(path, schema, 40)
    assert [{name: post[name] for name in schema.names} for post in found[:20] + found[21:]] == [
        *posts[:20],
        *posts[21:],
    ]
    limit = {"post_id": 4 * 1_025, "text": 4 * 65_536, "image": 1_000_001}
    assert len(found[20][column]) >= limit[column]
    assert len(found[20][column]) <= 4 * limit[column]


def test_what_no_child_can_read_names_its_column_and_row_group(
    tmp_path: Path, small_children: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_LARGE_LIMITS", Limits(60.0, 110 << 20))
    posts = make_posts(40)
    posts[20]["image"] = HUGE
    path = write_posts(tmp_path / "posts.parquet", posts)
    schema = pa.schema({"post_id": pa.string(), "text": pa.string(), "image": pa.binary()})
    said = r"column 'image' of row group 0 takes more than 110 MB of memory.*leave .* out"
    with pytest.raises(CorruptInputError, match=said):
        read_posts(path, schema, 40)


BYTES = [image_bytes(1), None, b"y", b"z" * 20_000, b""]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_values_are_cut_in_whatever_they_are_nested(kind: pa.DataType) -> None:
    cut = [None if value is None else value[:5] for value in BYTES]
    assert _cut(pa.array(BYTES, kind), 5).equals(pa.array(cut, kind))
    struct = pa.struct([("bytes", kind), ("path", pa.string())])

    def structs(values: list, path: str) -> pa.Array:
        rows = [None if value is None else {"bytes": value, "path": path} for value in values]
        return pa.array([*rows, {"bytes": None, "path": path}], struct)

    assert _cut(structs(BYTES, "é" * 30)[1:], 5).equals(structs(cut[1:], "é" * 10))
    for list_ in (pa.list_, pa.large_list):
        lists = pa.array([[b"before"], BYTES, None, [], [b"k" * 9]], list_(kind))[1:]
        assert _cut(lists, 5).to_pylist() == [cut, None, [], [b"kkkkk"]]
        assert _cut(lists, 5).type == lists.type


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts_are_cut_between_characters(kind: pa.DataType) -> None:
    texts = ["€" * 10, None, "y"]
    assert _cut(pa.array(texts, kind), 4).equals(pa.array(["€" * 5, None, "y"], kind))
    assert _cut(pa.array(texts).dictionary_encode(), 4).to_pylist() == ["€" * 5, None, "y"]
