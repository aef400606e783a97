"""Kept columns come out as every reader of Parquet understands them, whoever wrote them."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import fastavro
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output, Run


def test_what_only_some_writers_use_becomes_what_all_readers_know(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    far = datetime.datetime(9999, 12, 31)
    ids = [uuid.uuid4(), uuid.uuid4()]
    posts = pa.table(
        {
            "post_id": ["a", "b"],
            "text": ["a fine day", "a sad day"],
            "image": pa.array([None, None], pa.binary()),
            "seen": pa.array([far, None], pa.timestamp("us")),
            "half": pa.array([1.5, None], pa.float16()),
            "language": pa.array(["en", "de"]).dictionary_encode(),
            "view": pa.array(["x", "y"], pa.string_view()),
            "large": pa.array(["x", None], pa.large_string()),
            "uid": pa.array([one.bytes for one in ids], pa.uuid()),
            "broken": pa.array([b"\xff\xfe", b"fine"]).view(pa.string()),
        }
    )
    night = tmp_path / "night"
    night.mkdir()
    pq.write_table(posts, night / "a.parquet", use_deprecated_int96_timestamps=True)
    keep = "seen,language,view,large,uid,broken,half"
    assert annotate(night, "--keep", keep).code == 0
    [part] = (output.root / "annotations").rglob("*.parquet")
    types = {field.name: str(field.type) for field in pq.read_schema(part)}
    assert types["seen"] == "timestamp[us]" and types["half"] == "float"
    assert types["language"] == types["view"] == types["large"] == types["broken"] == "string"
    assert "uuid" in types["uid"]
    rows = {row["post_id"]: row for row in pq.read_table(part).to_pylist()}
    assert rows["a"]["seen"] == far
    assert rows["a"]["language"] == "en"
    assert rows["a"]["broken"] == "\ufffd\ufffd"
    assert pandas.read_parquet(part)["broken"].tolist() == ["\ufffd\ufffd", "fine"]
    query = "select seen, language, view, large, uid, broken from annotations order by post_id"
    [first, _] = output.duckdb(query)
    assert first[0] == far and first[1:4] == ("en", "x", "x") and first[4] == ids[0]


def _nested(values: pa.Array) -> pa.Array:
    """A list of one, twice."""
    return pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values)


def test_what_lies_in_another_column_is_read_by_all_as_well(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    nanoseconds = pa.array([1_000, 2_000], pa.timestamp("ns"))
    not_utf8 = pa.array([b"\xff", b"fine"]).view(pa.string())
    columns = {
        "times": _nested(nanoseconds),
        "place": pa.StructArray.from_arrays([nanoseconds, not_utf8], ["at", "name"]),
        "halves": _nested(pa.array([1.5, 2], pa.float16())),
        "tags": _nested(not_utf8),
        "views": _nested(pa.array(["x", "y"], pa.string_view())),
        "ids": _nested(pa.array([uuid.uuid4().bytes] * 2, pa.uuid())),
        "counts": pa.array([[("x", b"\xff")], None], pa.map_(pa.string(), pa.binary())),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "clock": pa.array([datetime.time(1, 2, 3), None], pa.time32("ms")),
        "said": pa.array(['{"a": 1}', None], pa.json_()),
    }
    posts = {"post_id": ["a", "b"], "text": ["a fine day", "a sad day"]}
    posts["image"] = pa.nulls(2, pa.binary())
    night = tmp_path / "night"
    night.mkdir()
    pq.write_table(pa.table({**posts, **columns}), night / "a.parquet")
    assert annotate(night, "--keep", ",".join(columns)).code == 0
    [part] = (output.root / "annotations").rglob("*.parquet")
    types = {field.name: str(field.type) for field in pq.read_schema(part)}
    assert types["times"] == "list<element: timestamp[us]>" and types["clock"] == "time64[us]"
    assert types["place"] == "struct<at: timestamp[us], name: string>"
    assert types["ids"] == "list<element: binary>"
    assert types["said"] == "extension<arrow.json>"
    kept = ", ".join(columns)
    rows = output.duckdb(f"select {kept} from annotations order by post_id")
    first = dict(zip(columns, rows[0], strict=True))
    assert first["tags"] == ["\ufffd"] and first["place"]["name"] == "\ufffd"
    assert first["halves"] == [1.5] and first["vector"] == [1.0, 2.0] and first["views"] == ["x"]
    assert first["times"][0].microsecond == 1 and first["clock"] == datetime.time(1, 2, 3)
    assert len(pandas.read_parquet(part)) == len(polars.read_parquet(part)) == 2


def test_nanoseconds_become_what_spark_reads_too(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    at = datetime.datetime(2026, 11, 20, 1, 2, 3, 456789)
    fine = pa.array([at, None, at, at], pa.timestamp("ns"))
    # Nine digits behind the second.
    fine = pa.concat_arrays([fine[:3], pa.array([1_763_600_000_123_456_789]).cast(fine.type)])
    assert annotate(_night(tmp_path, NIGHTS[0], at=fine), "--keep", "at").code == 0
    coarse = pa.array([at.replace(microsecond=0)] * 4, pa.timestamp("ms"))
    assert annotate(_night(tmp_path, NIGHTS[1], at=coarse), "--keep", "at").code == 0
    for part in (output.root / "annotations").rglob("*.parquet"):
        assert pq.read_schema(part).field("at").type == pa.timestamp("us")
    rows = {
        row["source_row"]: row["at"] for row in output.annotations if "17" in row["source_file"]
    }
    assert rows[0] == at and rows[1] is None and rows[3].microsecond == 123456


NIGHTS = ("dt=2026-11-17", "dt=2026-11-18", "dt=2026-11-19")


def _night(folder: Path, night: str, **kept: pa.Array) -> Path:
    posts = {name: [post[name] for post in make_posts(4)] for name in ("post_id", "text", "image")}
    (folder / night).mkdir(parents=True)
    pq.write_table(pa.table({**posts, **kept}), folder / night / "posts.parquet")
    return folder / night


def test_nights_that_keep_other_columns_are_read_together(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    words, numbers = pa.array(["en", "de", None, "fr"]), pa.array([1, 2, 3, 4])
    assert annotate(_night(tmp_path, NIGHTS[0], lang=words), "--keep", "lang").code == 0
    run = annotate(_night(tmp_path, NIGHTS[1], score=numbers), "--keep", "score")
    assert run.code == 0
    assert any("--keep score: what was published before" in w for w in run.manifest["warnings"])
    assert annotate(_night(tmp_path, NIGHTS[2])).code == 0
    query = "select dt, count(lang), count(score), count(*) from {} group by all order by all"
    by_name = f"read_parquet('{output.root}/annotations/**/*.parquet', union_by_name = true)"
    found = [row[1:] for row in output.duckdb(query.format(by_name))]
    assert found == [(3, 0, 4), (0, 4, 4), (0, 0, 4)]
    # As the README's query reads them: the first night's columns, and no error.
    assert [row[0] for row in output.duckdb("select count(lang) from annotations")] == [3]
    assert len(pandas.read_parquet(output.root / "annotations")) == 12
    glob = f"{output.root}/annotations/**/*.parquet"
    scan = polars.scan_parquet(glob, missing_columns="insert", extra_columns="ignore")
    table = scan.collect()
    assert table["lang"].to_list() == ["en", "de", None, "fr"] + [None] * 8


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize(
    "without, with_values",
    [
        (pa.nulls(4), pa.array(["a", "b", "c", "d"])),
        (pa.array([None] * 4, pa.float64()), pa.array(["a", "b", "c", "d"])),
        (pa.array([[]] * 4, pa.list_(pa.null())), pa.array([["a"]] * 4)),
    ],
    ids=["null", "float", "list"],
)
def test_a_column_without_values_leaves_room_for_those_of_another_night(
    tmp_path: Path,
    annotate: Callable[..., Run],
    output: Output,
    without: pa.Array,
    with_values: pa.Array,
    first: bool,
) -> None:
    columns = (without, with_values) if first else (with_values, without)
    for night, column in zip(NIGHTS[:2], columns, strict=True):
        assert annotate(_night(tmp_path, night, x=column), "--keep", "x").code == 0
    by_name = f"read_parquet('{output.root}/annotations/**/*.parquet', union_by_name = true)"
    found = [row[0] for row in output.duckdb(f"select x from {by_name}")]
    assert [value for value in found if value] == with_values.to_pylist()
    assert len(pandas.read_parquet(output.root / "annotations")) == 8
    number = annotate(_night(tmp_path, NIGHTS[2], x=pa.array([1] * 4)), "--keep", "x")
    assert number.code == 4
    assert f"as in {NIGHTS[1 if first else 0]}" in number.err


def test_numbers_are_of_the_outputs_type_where_that_changes_none(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    whole, gaps = pa.array([1, 2, 3, 4]), pa.array([1.0, None, 3.0, 4.0])
    assert annotate(_night(tmp_path, NIGHTS[0], likes=whole), "--keep", "likes").code == 0
    assert annotate(_night(tmp_path, NIGHTS[1], likes=gaps), "--keep", "likes").code == 0
    found = output.duckdb("select likes from annotations order by dt, source_row")
    assert [row[0] for row in found] == [1, 2, 3, 4, 1, None, 3, 4]
    run = annotate(_night(tmp_path, NIGHTS[2], likes=pa.array([1.5] * 4)), "--keep", "likes")
    assert run.code == 4 and "'likes' is double, with values that are none of int64" in run.err


def test_decimals_of_records_and_of_narrower_columns_fit(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    schema = {
        "type": "record",
        "name": "post",
        "fields": [
            {"name": "post_id", "type": "long"},
            {"name": "text", "type": "string"},
            {"name": "image", "type": "null"},
            {
                "name": "price",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            },
        ],
    }
    prices = [Decimal("1.50"), Decimal("1234.50")]
    for night, price in zip(NIGHTS, prices, strict=False):
        (tmp_path / night).mkdir()
        with open(tmp_path / night / "posts.avro", "wb") as file:
            post = {"post_id": 1, "text": "a fine day", "image": None, "price": price}
            fastavro.writer(file, schema, [post])
        assert annotate(tmp_path / night, "--keep", "price").code == 0
    narrow = pa.array([Decimal("2.5")] * 4, pa.decimal128(3, 1))
    assert annotate(_night(tmp_path, NIGHTS[2], price=narrow), "--keep", "price").code == 0
    rows = output.duckdb("select distinct price from annotations order by price")
    assert [row[0] for row in rows] == [Decimal("1.50"), Decimal("2.50"), Decimal("1234.50")]


def test_an_object_of_a_record_is_kept_as_text_whatever_fields_it_has(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    nights = [{"user": {"id": 1}, "lang": "en"}, {"user": {"id": "1", "bot": True}, "lang": 7}]
    for night, kept in zip(NIGHTS, [*nights, {"user": None, "lang": None}], strict=True):
        post = {"post_id": 1, "text": "a fine day", "image": None, **kept}
        (tmp_path / night).mkdir()
        (tmp_path / night / "posts.jsonl").write_text(json.dumps(post))
        assert annotate(tmp_path / night, "--keep", "user,lang").code == 0
    rows = output.duckdb("select user, lang from annotations order by dt")
    assert rows == [('{"id": 1}', "en"), ('{"id": "1", "bot": true}', "7"), (None, None)]


def test_rows_that_a_footer_does_not_count_fail_their_file_and_no_other(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    night = tmp_path / "night"
    path = write_posts(night / "a.parquet", make_posts(21), compression="none")
    write_posts(night / "b.parquet", make_posts(5))
    content = path.read_bytes()
    # Of the footer's counts of rows (zigzag: 42), the row group's becomes 20.
    length = int.from_bytes(content[-8:-4], "little")
    footer = bytearray(content[-8 - length : -8])
    places = [place for place, byte in enumerate(footer) if byte == 42]
    for place in places:
        footer[place] = 40
    path.write_bytes(content[: -8 - length] + bytes(footer) + content[-8:])
    run = annotate(night)
    assert run.code in (0, 4)
    if run.code == 4:
        assert str(path) in run.manifest["failed_files"][0]["error"]
    assert [row["source_file"] for row in output.annotations].count("b.parquet") == 5
