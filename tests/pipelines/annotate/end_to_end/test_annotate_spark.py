"""Spark reads what is published: the reader of Parquet that refuses the most.

Run where pyspark is installed, which is half a gigabyte (tests/support/spark.txt), and Java.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.corpora import make_posts
from tests.support.running import Output, Run

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("pyspark") is None,
        reason="needs Spark: pip install -r tests/support/spark.txt",
    ),
    pytest.mark.skipif(
        not shutil.which("java") and "JAVA_HOME" not in os.environ,
        reason="needs Java 17 or newer, for Spark",
    ),
]

NIGHTS = ("dt=2026-11-17", "dt=2026-11-18", "dt=2026-11-19")

# Times of day are off by default in Spark 4.
READ = """
import json, sys
from pyspark.sql import SparkSession

nights, schema, *folders = json.loads(sys.argv[1])
settings = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timeType.enabled": "true",
    "spark.ui.showConsoleProgress": "false",
}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
merged = spark.read.option("mergeSchema", "true").option("basePath", folders[0])
found = merged.parquet(*nights)
whole = spark.read.schema(schema).parquet(folders[0])
lost = spark.read.parquet(folders[1])
rows = lambda table: [row.asDict(recursive=True) for row in table.collect()]
print(json.dumps(
    {"types": dict(found.dtypes), "rows": rows(found), "whole": rows(whole), "lost": lost.count()},
    default=lambda value: value.hex() if isinstance(value, (bytes, bytearray)) else str(value)
))
"""


def test_spark_reads_kept_columns_of_nights_that_keep_others(
    tmp_path: Path, annotate: Callable[..., Run], output: Output
) -> None:
    far = datetime.datetime(9999, 12, 31)
    fine = pa.array([1_000] * 4, pa.timestamp("ns"))
    ids = [uuid.uuid4() for _ in range(4)]
    first = {
        "seen": pa.array([far, None] * 2, pa.timestamp("us")),
        "said": pa.array(['{"a": 1}', None] * 2, pa.json_()),
        "price": pa.array([Decimal("12.50"), None] * 2),
        "tags": pa.array([[["a"], []], None] * 2),
        "place": pa.StructArray.from_arrays([fine, pa.array(["x"] * 4)], ["at", "name"]),
        "none": pa.nulls(4),
    }
    second = {"clock": pa.array([datetime.time(1, 2, 3), None] * 2, pa.time32("ms"))}
    second["none"] = pa.array([1, 2, 3, 4])
    third = {"uid": pa.array([one.bytes for one in ids], pa.uuid())}
    for night, kept in zip(NIGHTS, (first, second, third), strict=True):
        columns = {name: [post[name] for post in make_posts(4)] for name in ("text", "image")}
        columns["post_id"] = ["a", "b", "c", None]
        path = tmp_path / night / "posts.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table(columns | kept), path, use_deprecated_int96_timestamps=True)
        options = ("--keep", ",".join(kept), "--max-dead-letter-share", 1)
        assert annotate(path.parent, *options).code == 0
    found = _read_by_spark(output, NIGHTS[:2], "post_id string, label string, uid binary")
    types = found["types"]
    assert types["seen"] == "timestamp_ntz" and types["clock"] == "time(6)"
    assert types["price"] == "decimal(4,2)" and types["tags"] == "array<array<string>>"
    assert types["place"] == "struct<at:timestamp_ntz,name:string>"
    assert types["said"] == "string" and types["none"] == "bigint"
    rows = {(str(row["dt"]), row["post_id"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 6 and found["lost"] == 3
    row = rows["2026-11-17", "a"]
    assert row["seen"] == str(far) and row["said"] == '{"a": 1}' and row["price"] == "12.50"
    assert row["tags"] == [["a"], []] and row["place"]["name"] == "x" and row["none"] is None
    assert set(row["probabilities"]) == {"negative", "neutral", "positive"}
    row = rows["2026-11-18", "a"]
    assert row["clock"] == "01:02:03" and row["none"] == 1 and row["seen"] is None
    # Spark infers no type for a UUID; where it is given one, it reads the file.
    told = {row["uid"] for row in found["whole"] if row["uid"]}
    assert told == {one.hex for one in ids[:3]} and len(found["whole"]) == 9


def _read_by_spark(output: Output, nights: tuple[str, ...], schema: str) -> dict[str, Any]:
    folders = [str(output.root / tree) for tree in ("annotations", "dead_letters")]
    message = [[f"{folders[0]}/{night}" for night in nights], schema, *folders]
    run = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(message)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])
