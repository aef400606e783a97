"""Kept columns come out as every reader of Parquet understands them, whoever wrote them."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

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
    keep = "seen,language,view,large,uid,broken"
    assert annotate(night, "--keep", keep).code == 0
    [part] = (output.root / "annotations").rglob("*.parquet")
    types = {field.name: str(field.type) for field in pq.read_schema(part)}
    assert types["seen"] == "timestamp[us]"
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
