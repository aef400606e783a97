"""Images as text, as paths and in lists: each value says what it is."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa
import pytest

from schemas.posts import PostColumns, check_posts_schema, coerce_posts

JPEG = b"\xff\xd8\xff\xe0 bytes of an image"
TEXT = base64.b64encode(JPEG).decode()


def coerced(folder: str = "", **columns: pa.Array) -> list[tuple[bytes | None, str | None]]:
    """(image, image_uri) of posts with these columns."""
    count = len(next(iter(columns.values())))
    ids = pa.array([str(n) for n in range(count)])
    batch = pa.RecordBatch.from_pydict({"post_id": ids, "text": ids, **columns})
    layout = check_posts_schema(batch.schema, PostColumns(image_folder=folder), (), "p")
    posts = coerce_posts(batch, layout).to_pydict()
    return list(zip(posts["image"], posts["image_uri"], strict=True))


@pytest.mark.parametrize(
    ("value", "image", "uri"),
    [
        (TEXT, JPEG, None),
        (f" {TEXT[:20]}\n{TEXT[20:]}".rstrip("="), JPEG, None),
        (f"data:image/jpeg;base64,{TEXT}", JPEG, None),
        ("data:,%FF%D8", b"\xff\xd8", None),
        ("data:image/jpeg;base64,***", b"***", None),
        (f"DATA:image/jpeg; charset=x; BASE64,{TEXT}", JPEG, None),
        ("data:", None, None),
        ("data:image/jpeg;base64,", None, None),
        ("data:image/gif;base64,__vvvg", b"\xff\xfb\xef\xbe", None),
        (TEXT[:21], JPEG[:15], None),
        (f"\\x{JPEG.hex()}", JPEG, None),
        (f"0x{JPEG.hex()[:-1]}", JPEG[:-1], None),
        (repr(TEXT.encode()), JPEG, None),
        (repr(b"\xff '\x00\\"), b"\xff '\x00\\", None),
        ("no base64?!", b"no base64?!", None),
        ("NaN", None, None),
        ("https://h/a.jpg", None, "https://h/a.jpg"),
        ("photos/a.JPG", None, "photos/a.JPG"),
        ("", None, None),
        (None, None, None),
    ],
)
def test_a_text_is_an_image_or_an_address(
    value: str | None, image: bytes | None, uri: str | None
) -> None:
    assert coerced(image=pa.array([value], pa.string())) == [(image, uri)]


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        ("photos/a.jpg", "/data/photos/a.jpg"),
        ("a", "/data/a"),
        ("./photos/./a.jpg", "/data/photos/a.jpg"),
        ("photos\\a.jpg", "/data/photos/a.jpg"),
        ("..\\a.jpg", "/data/../a.jpg"),
        ("../a.jpg", "/data/../a.jpg"),  # for the fetcher to refuse
        ("/elsewhere/a.jpg", "/elsewhere/a.jpg"),
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
    ],
)
def test_relative_paths_begin_at_the_folder_that_was_named(value: str, uri: str) -> None:
    assert coerced("/data/", image=pa.array([value])) == [(None, uri)]
    assert coerced("/data/", image_uri=pa.array([value])) == [(None, uri)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert coerced("/data/", image=pa.array([{"bytes": None, "path": value}], kind)) == [
        (None, uri)
    ]


def test_bytes_may_be_those_of_a_text() -> None:
    values = [TEXT.encode(), f"data:image/jpeg;base64,{TEXT}".encode(), JPEG, b"\x89PNG", None]
    read = [(JPEG, None), (JPEG, None), (JPEG, None), (b"\x89PNG", None), (None, None)]
    assert coerced(image=pa.array(values, pa.binary())) == read
    structs = pa.array([{"bytes": value} for value in values], pa.struct({"bytes": pa.binary()}))
    assert coerced(image=structs) == read


def test_an_address_may_hold_the_image() -> None:
    uris = pa.array([f"Data:image/jpeg;base64,{TEXT}", "https://h/a", None, "data:,x", "nan"])
    read = [(JPEG, None), (None, "https://h/a"), (None, None), (b"x", None), (None, None)]
    assert coerced(image_uri=uris) == read
    assert coerced("/data", image_uri=pa.array(["null"])) == [(None, None)]


@pytest.mark.parametrize("kind", [pa.list_(pa.binary()), pa.large_list(pa.binary())])
def test_of_a_list_the_first_counts(kind: pa.DataType) -> None:
    values: list[Any] = [[b"a", b"b"], [], None, [None, b"c"], [b"d"]]
    images = pa.array([*values, [b"not in the slice"]], kind).slice(0, 5)
    assert [image for image, _ in coerced(image=images)] == [b"a", None, None, None, b"d"]
    # A batch lies anywhere in its column.
    assert [i for i, _ in coerced(image=pa.array(values, kind).slice(3))] == [None, b"d"]


def test_a_list_of_addresses_or_of_structs_counts_by_its_first() -> None:
    assert coerced(image_uri=pa.array([["https://h/1", "https://h/2"]])) == [(None, "https://h/1")]
    kind = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    images = pa.array([[{"bytes": b"a", "path": None}], []], kind)
    assert coerced(image=images) == [(b"a", None), (None, None)]
