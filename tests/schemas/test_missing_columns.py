"""What every file lacks is told once, with the options that mend it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from schemas.missing_columns import describe_missing
from schemas.posts import PostColumns, parse_columns

TEXT, BYTES = pa.string(), pa.binary()


def said(columns: PostColumns | None = None, **names: pa.DataType) -> str | None:
    return describe_missing([pa.schema(names)] * 3, columns or PostColumns())


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ({"tweet_id": pa.int64(), "full_text": TEXT, "image": BYTES},
         "--column post_id=tweet_id --column text=full_text"),
        ({"ID": TEXT, "Body": TEXT, "photo": BYTES},
         "--column post_id=ID --column text=Body --column image=photo"),
        ({"post_id": TEXT, "text": TEXT, "image_url": TEXT}, "--column image_uri=image_url"),
        ({"post_id": TEXT, "text": TEXT, "photos": pa.list_(TEXT)}, "--column image=photos"),
        ({"post_id": TEXT, "text": TEXT}, "--column image="),
        ({"a": TEXT, "text": TEXT, "image": BYTES}, "--column post_id=NAME"),
        ({"post id": TEXT, "text": TEXT, "image": BYTES}, "--column post_id='post id'"),
    ],
)  # fmt: skip
def test_the_way_out_names_what_is_there(names: dict[str, pa.DataType], options: str) -> None:
    sentence = said(**names)
    assert sentence is not None
    assert sentence.startswith("3 of 3 files lack ")
    assert sentence.endswith(f"; they have {', '.join(names)}; say {options}")


def test_the_way_out_works() -> None:
    names = {"tweet_id": pa.int64(), "full_text": TEXT, "media": pa.list_(TEXT)}
    sentence = said(**names)
    assert sentence is not None
    columns = parse_columns([part for part in sentence.split() if "=" in part])
    assert said(columns, **names) is None


def test_what_one_file_has_is_not_missing() -> None:
    whole = pa.schema({"post_id": TEXT, "text": TEXT, "image": BYTES})
    assert describe_missing([whole, pa.schema({"a": TEXT})], PostColumns()) is None
    assert said(parse_columns(["image="]), post_id=TEXT, text=TEXT) is None
