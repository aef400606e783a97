"""Posts: every accepted form becomes one form; every other is named with a way out."""

from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import DRFError, SchemaError, UsageError
from schemas.posts import (
    BROKEN,
    PostColumns,
    check_posts_schema,
    coerce_posts,
    kept_columns,
    parse_columns,
)
from tests.data import corpora

DEFAULTS = PostColumns()
IDS = pa.array(["1", "2", None])
BYTES = pa.array([b"a", None, b"c"])


def coerced(columns: dict[str, pa.Array], mapping: PostColumns = DEFAULTS, keep=()):
    batch = pa.RecordBatch.from_pydict(columns)
    layout = check_posts_schema(batch.schema, mapping, keep, "posts.parquet")
    return coerce_posts(batch.select(layout.read), layout)


def checked(keep=(), mapping: PostColumns = DEFAULTS, **types: pa.DataType):
    return check_posts_schema(pa.schema(list(types.items())), mapping, keep, "night/p.parquet")


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_every_text_type_is_accepted_everywhere(type_: pa.DataType):
    posts = coerced(
        {
            "post_id": pa.array(["a", "ü", None], pa.string()).cast(type_),
            "text": pa.array(["😡", None, ""], pa.string()).cast(type_),
            "image_uri": pa.array(["s3://b/1", None, " "], pa.string()).cast(type_),
        }
    )
    assert posts.schema.types == [
        pa.string(),
        pa.large_string(),
        pa.large_binary(),
        pa.large_string(),
        pa.string(),
    ]
    assert posts.to_pydict() == {
        "post_id": ["a", "ü", None],
        "text": ["😡", None, ""],
        "image": [None, None, None],
        "image_uri": ["s3://b/1", None, None],
        BROKEN: [None] * 3,
    }


def test_ids_that_pandas_made_float_are_whole_numbers() -> None:
    texts = pa.array(["a", "b", "c"])
    found = coerced({"post_id": pa.array([1.0, None, float("nan")]), "text": texts, "image": texts})
    assert found["post_id"].to_pylist() == ["1", None, None]
    for wrong in (1.5, 1.7e18, float("inf")):
        ids = pa.array([1.0, None, wrong])
        with pytest.raises(SchemaError, match="'post_id': found double, expected whole numbers"):
            coerced({"post_id": ids, "text": texts, "image": texts})


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.uint64()], ids=str)
def test_integer_ids_become_decimal_strings(type_: pa.DataType):
    ids = pa.array([0, 127, None], type_)
    posts = coerced({"post_id": ids, "text": IDS, "image": BYTES})
    assert posts.column("post_id").to_pylist() == ["0", "127", None]


def test_large_integer_ids_keep_every_digit():
    ids = pa.array([2**64 - 1], pa.uint64()).dictionary_encode()
    posts = coerced({"post_id": ids, "text": IDS[:1], "image": BYTES[:1]})
    assert posts.column("post_id").to_pylist() == ["18446744073709551615"]


@pytest.mark.parametrize(
    "type_",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.binary(1),
        pa.dictionary(pa.int8(), pa.binary()),
    ],
    ids=str,
)
def test_every_binary_type_is_an_image(type_: pa.DataType):
    image = BYTES.dictionary_encode().cast(type_) if pa.types.is_dictionary(type_) else None
    image = image if image is not None else BYTES.cast(type_)
    posts = coerced({"post_id": IDS, "text": IDS, "image": image})
    assert posts.column("image").to_pylist() == [b"a", None, b"c"]


@pytest.mark.parametrize("names", [("bytes", "path"), ("path", "bytes"), ("path", "bytes", "size")])
def test_an_image_struct_gives_bytes_or_else_its_path(names: tuple[str, ...]):
    types = {"bytes": pa.binary(), "path": pa.string(), "size": pa.int32()}
    rows = [
        {"bytes": b"a", "path": "a.jpg"},
        {"bytes": None, "path": "s3://b/b.jpg"},
        {"bytes": None, "path": None},
        {"bytes": None, "path": ""},
        None,
    ]
    image = pa.array(rows, pa.struct([(name, types[name]) for name in names]))
    text = pa.array(list("abcde"))
    posts = coerced({"post_id": text, "text": text, "image": image})
    assert posts.column("image").to_pylist() == [b"a", None, None, None, None]
    assert posts.column("image_uri").to_pylist() == [None, "s3://b/b.jpg", None, None, None]


def test_an_image_uri_column_goes_before_the_path_of_the_struct():
    image = pa.array([{"bytes": None, "path": "p"}] * 2, corpora.IMAGE_STRUCT)
    uri = pa.array(["u", None])
    posts = coerced({"post_id": IDS[:2], "text": IDS[:2], "image": image, "image_uri": uri})
    assert posts.column("image_uri").to_pylist() == ["u", "p"]


def test_columns_of_nulls_only_are_accepted_as_their_writers_type_them():
    nulls = pa.nulls(3)
    posts = coerced({"post_id": IDS, "text": nulls, "image": nulls, "image_uri": nulls})
    assert [column.null_count for column in posts.columns] == [1, 3, 3, 3, 3]
    image = pa.array([{"bytes": None, "path": "p"}])
    posts = coerced({"post_id": IDS[:1], "text": nulls[:1], "image": image})
    assert posts.column("image_uri").to_pylist() == ["p"]


def test_bytes_that_are_no_utf8_do_not_fail_the_file():
    broken = pa.array([b"caf\xe9", b"good", None]).view(pa.string())
    posts = coerced({"post_id": IDS, "text": broken, "image": BYTES})
    assert posts.column("text").to_pylist() == ["caf\ufffd", "good", None]


def test_a_slice_of_a_batch_is_coerced_like_the_batch():
    images = [{"bytes": bytes([n]) if n % 2 else None, "path": str(n)} for n in range(10)]
    batch = pa.RecordBatch.from_pydict(
        {
            "post_id": pa.array(range(10)),
            "text": pa.array([str(n) for n in range(10)]).dictionary_encode(),
            "image": pa.array(images, corpora.IMAGE_STRUCT),
        }
    )
    layout = check_posts_schema(batch.schema, PostColumns(), (), "posts.parquet")
    assert coerce_posts(batch.slice(3, 4), layout).equals(coerce_posts(batch, layout).slice(3, 4))


def test_columns_are_mapped_by_name():
    mapping = parse_columns(["post_id=ID", "text=BODY", "image=PICTURE"])
    posts = coerced({"ID": IDS, "BODY": IDS, "PICTURE": BYTES}, mapping)
    assert posts.column("image").to_pylist() == [b"a", None, b"c"]
    assert posts.column("text").to_pylist() == ["1", "2", None]


def test_a_corpus_may_have_no_text_or_no_image():
    without_image = coerced({"post_id": IDS, "text": IDS}, parse_columns(["image="]))
    assert without_image.column("image").null_count == 3
    without_text = coerced({"post_id": IDS, "image": BYTES}, parse_columns(["text="]))
    assert without_text.column("text").null_count == 3


def test_kept_columns_travel_untouched_under_their_own_names():
    lang = pa.array(["en", "de", None]).dictionary_encode()
    posts = coerced(
        {"post_id": IDS, "text": lang, "image": BYTES, "when": IDS, "lang": lang},
        keep=("lang", "text"),
    )
    layout = checked(
        ("lang", "text"), post_id=pa.string(), text=lang.type, image=pa.binary(), lang=lang.type
    )
    kept = kept_columns(posts, layout)
    assert kept.schema.names == ["lang", "text"]
    assert kept.column("lang").equals(lang)
    assert kept.column("text").equals(lang)
    assert posts.column("text").type == pa.large_string()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["image"], "write ROLE=NAME"),
        (["img=PICTURE"], "did you mean image"),
        (["label=x"], "roles are post_id, text, image, image_uri"),
        (["post_id="], "posts need an id"),
        (["text=a", "text=b"], "mapped twice"),
        (["text=body", "image=body"], "one column plays one role"),
        (["text=image"], "one column plays one role"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(items: list[str], says: str):
    with pytest.raises(UsageError, match=says):
        parse_columns(items)


@pytest.mark.parametrize(
    ("types", "says"),
    [
        (
            {"post_id": pa.date32(), "text": pa.string(), "image": pa.binary()},
            "night/p.parquet: column 'post_id': found date32.*, expected string",
        ),
        (
            {"post_id": pa.string(), "text": pa.list_(pa.string()), "image": pa.binary()},
            "column 'text': found list",
        ),
        (
            {"post_id": pa.string(), "text": pa.string(), "image": pa.int64()},
            "column 'image': found int64, expected binary",
        ),
        (
            {"post_id": pa.string(), "text": pa.string(), "image": pa.struct([("path", "string")])},
            "column 'image': found struct<path: string>",
        ),
        (
            {"post_id": pa.string(), "text": pa.string(), "image_uri": pa.int64()},
            "column 'image_uri': found int64",
        ),
        (
            {"text": pa.string(), "image": pa.binary()},
            "column 'post_id': found no such column, .* --column post_id=NAME",
        ),
        (
            {"post_id": pa.string(), "image": pa.binary()},
            r"column 'text': found no such column, .* --column text= \(the file has post_id, im",
        ),
        (
            {"post_id": pa.string(), "text": pa.string()},
            "column 'image': found no such column, .* --column image=",
        ),
    ],
)
def test_a_wrong_column_is_named_with_found_and_expected(types: dict, says: str):
    with pytest.raises(SchemaError, match=says) as error:
        checked(**types)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4


def test_a_column_that_is_mapped_must_be_there():
    with pytest.raises(SchemaError, match="column 'url': found no such column"):
        checked(
            mapping=parse_columns(["image_uri=url"]),
            post_id=pa.string(),
            text=pa.string(),
            image=pa.binary(),
        )


def test_a_column_that_is_there_twice_is_refused():
    twice = pa.schema(
        [("post_id", "string"), ("text", "string"), ("text", "string"), ("image", "binary")]
    )
    with pytest.raises(SchemaError, match="2 columns of that name"):
        check_posts_schema(twice, PostColumns(), (), "p.parquet")


def test_kept_columns_must_exist_once_and_not_be_called_like_an_annotation():
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    with pytest.raises(SchemaError, match="'lang': found no such column"):
        checked(("lang",), **types)
    for name in ("label", "Label", "post_id", "source_row"):
        with pytest.raises(UsageError, match=f"--keep {name}: the annotations have a column"):
            checked((name,), **{**types, name: pa.string()})
    with pytest.raises(UsageError, match="named twice"):
        checked(("lang", "lang"), lang=pa.string(), **types)


def test_errors_survive_the_way_between_processes():
    error = SchemaError("p.parquet", "text", "double", "string", "convert it")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, DRFError)
    assert str(again) == str(error)


def test_the_nights_are_accepted_as_they_are(shared: Path):
    paths = sorted((shared / "corpora" / "nightly").rglob("*.parquet"))
    kinds = set()
    for path in paths:
        table = pq.read_table(path, partitioning=None)
        layout = check_posts_schema(table.schema, PostColumns(), ("created_at", "lang"), path.name)
        for batch in table.select(layout.read).to_batches():
            posts = coerce_posts(batch, layout)
            assert posts.num_rows == batch.num_rows
            assert posts.column("image").null_count < posts.num_rows / 2
        kinds.add(str(table.schema.field("image").type))
    assert kinds == {"binary", "struct<bytes: binary, path: string>"}


@pytest.mark.parametrize(
    "ids, expected",
    [
        (pa.array([Decimal(1), None], pa.decimal128(20, 0)), ["1", None]),
        (pa.array([UUID(int=7).bytes, None], pa.uuid()), [str(UUID(int=7)), None]),
        (pa.array([UUID(int=7).bytes, None], pa.binary(16)), [str(UUID(int=7)), None]),
        (pa.array(["é".encode(), None], pa.binary()), ["é", None]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.nulls(2), [None, None]),
    ],
    ids=["decimal", "uuid", "bytes of a uuid", "UTF-8 bytes", "view", "null"],
)
def test_ids_of_every_kind_become_strings(ids: pa.Array, expected: list[str | None]) -> None:
    posts = pa.record_batch({"post_id": ids, "text": ["t", "t"]})
    columns = PostColumns(image=None, image_uri=None)
    layout = check_posts_schema(posts.schema, columns, (), "file")
    assert coerce_posts(posts, layout).column("post_id").to_pylist() == expected
