"""CSV, JSON Lines and Avro: every record counted, one type for a column, damage named."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from pipelines.posts.formats import records
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.record_files import Survey, is_records_file, read_records, survey
from schemas.posts import BROKEN


def written(path: Path, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def surveyed(path: str) -> Survey:
    with open(path, "rb") as file:
        return survey(file, path)


def rows_of(path: str, batch_rows: int = 2) -> list[dict[str, Any]]:
    """The file's records, with the types and the count that the survey promised."""
    found = surveyed(path)
    with open(path, "rb") as file:
        batches = list(read_records(file, path, found.schema, found.schema.names, batch_rows))
    assert all(batch.num_rows <= batch_rows for batch in batches)
    names = found.schema.names
    table = pa.Table.from_batches([one.select(names) for one in batches], schema=found.schema)
    assert table.num_rows == found.rows
    return table.to_pylist()


@pytest.mark.parametrize("name", ["posts.csv", "posts.csv.gz"])
def test_csv_is_text_and_an_empty_field_null(tmp_path: Path, name: str) -> None:
    content = '\ufeffid,text\n007,"two\nlines, ""quoted"""\n\n2026-11-20,\n8,caf\xe9'
    path = written(tmp_path / name, content)
    assert rows_of(path) == [
        {"id": "007", "text": 'two\nlines, "quoted"'},
        {"id": "2026-11-20", "text": None},
        {"id": "8", "text": "café"},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_first_line_tells_what_separates_fields(tmp_path: Path, delimiter: str) -> None:
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["id", "text"], ["1", "a,b;c\td"]])
    assert rows_of(str(tmp_path / "posts.csv")) == [{"id": "1", "text": "a,b;c\td"}]


def test_bytes_that_are_no_utf8_cost_themselves_unless_most_records_have_some(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.csv", b"id,text\n1,caf\xe9\n2,tea\n")
    assert rows_of(path)[0]["text"] == "caf\ufffd" and surveyed(path).not_utf8 == 1
    path = written(tmp_path / "a.jsonl", b'{"id": 1, "text": "caf\xe9"}\n{"id": 2}\n')
    assert rows_of(path)[0]["text"] == "caf\ufffd" and surveyed(path).not_utf8 == 1
    for name, line in (("b.csv", "{0},今天天气\n"), ("b.jsonl", '{{"id": {0}, "text": "今天"}}\n')):
        lines = ("id,text\n" if name == "b.csv" else "") + "".join(map(line.format, range(3)))
        path = written(tmp_path / name, lines.encode("gbk"))
        with pytest.raises(CorruptInputError, match="3 of 3 records are in another encoding"):
            surveyed(path)


def test_quotes_and_nulls_as_spark_and_databases_write_them(tmp_path: Path) -> None:
    lines = ["id,text", r'1,"he said \"hi, you\"', r'and left"', r"2,\N", r'3,"C:\"', '4,"a ""b"""']
    assert [row["text"] for row in rows_of(written(tmp_path / "a.csv", "\n".join(lines)))] == [
        'he said "hi, you"\nand left',
        None,
        "C:\\",
        'a "b"',
    ]


def test_columns_without_a_name_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ",id,text,,\n0,1,a day,,\n")
    assert rows_of(path) == [{"id": "1", "text": "a day"}]


@pytest.mark.parametrize("name", ["ORCID", "PAR1", "BZh", "FEA1"])
def test_a_column_may_be_called_as_other_files_begin(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.csv", f"{name},text\n1,a day, in café\n2,b\n3,c\n")
    assert [row[name] for row in rows_of(path)] == [None, "2", "3"]


@pytest.mark.parametrize("depth", [10, 100, 900])
def test_what_is_nested_deeper_than_a_type_can_be_is_text(tmp_path: Path, depth: int) -> None:
    found = rows_of(written(tmp_path / "a.jsonl", f'{{"x": {"[" * depth}7{"]" * depth}}}'))
    assert isinstance(found[0]["x"], list if depth == 10 else str)
    schema = surveyed(str(tmp_path / "a.jsonl")).schema
    assert pa.ipc.read_schema(schema.serialize()) == schema


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", b"<!DOCTYPE html><title>404</title>", "a web page"),
        ("a.jsonl.gz", b"<html>", "a web page"),
        ("a.csv", b"PAR1\x15\x04\x15", "a Parquet file, of another name"),
        ("a.jsonl", gzip.compress(b"{}"), "a gzip archive"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid x\n", "a Git LFS pointer"),
    ],
)
def test_another_kind_of_file_is_no_file_without_rows(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    with pytest.raises(CorruptInputError, match=f"it is {kind}"):
        surveyed(written(tmp_path / name, content))


def test_a_spreadsheet_is_told_what_separates_fields(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "\ufeffsep=;\r\nid;text\r\n1;a,b,c\r\n")
    assert rows_of(path) == [{"id": "1", "text": "a,b,c"}]


def test_what_json_holds_and_utf8_does_not_fails_no_file(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "text": "\\ud83d cut", "tags": ["\\ude00"]}',
        '{"id": 2, "text": "\\ud83d\\ude00"}',
    ]
    found = rows_of(written(tmp_path / "a.jsonl", "\ufeff" + "\n".join(lines)))
    assert found[0] == {"id": 1, "text": "\ufffd cut", "tags": ["\ufffd"]}
    assert found[1]["text"] == "\U0001f600"


@pytest.mark.parametrize("name", ["posts.jsonl", "posts.ndjson.gz", "part-0000.json"])
def test_json_fields_may_come_late_and_texts_stay_texts(tmp_path: Path, name: str) -> None:
    records = [{"id": n, "text": "2026-11-20 10:00:00"} for n in range(300)]
    records.append({"id": 300, "text": "late", "lang": "en", "score": float("nan")})
    path = written(tmp_path / name, "\n\n".join(json.dumps(record) for record in records))
    found = rows_of(path, batch_rows=128)
    assert len(found) == 301
    assert found[0] == {"id": 0, "text": "2026-11-20 10:00:00", "lang": None, "score": None}
    assert found[300]["lang"] == "en"
    assert surveyed(path).schema.field("id").type == pa.int64()


def test_json_values_of_many_types_become_text(tmp_path: Path) -> None:
    values: list[Any] = [7, "007", None, {"a": [1]}, 10**30]
    path = written(tmp_path / "posts.jsonl", "\n".join(json.dumps({"id": v}) for v in values))
    assert [row["id"] for row in rows_of(path)] == ["7", "007", None, '{"a": [1]}', str(10**30)]


def test_lists_and_objects_keep_their_shape(tmp_path: Path) -> None:
    path = written(
        tmp_path / "posts.jsonl",
        '{"media": ["a.jpg"], "user": {"id": 1}}\n{"media": [], "user": {"id": 2.5, "x": null}}\n',
    )
    assert rows_of(path)[0] == {"media": ["a.jpg"], "user": {"id": 1.0, "x": None}}


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro_has_bytes_and_optional_fields(tmp_path: Path, codec: str) -> None:
    fields = [
        {"name": "id", "type": "long"},
        {"name": "text", "type": ["null", "string"]},
        {"name": "image", "type": ["null", "bytes"]},
    ]
    records = [{"id": n, "text": None, "image": bytes([n])} for n in range(5)]
    with open(tmp_path / "posts.avro", "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "P", "fields": fields}, records, codec)
    assert rows_of(str(tmp_path / "posts.avro")) == records


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "id,text\n1,secret,y\n", "record 0.*3 fields where the first line names 2"),
        ("a.csv", 'id,text\n1,"secret', "record 0.*unexpected end of data; 1 of 1 records"),
        ("a.csv", "", "the first line names no columns"),
        ("a.csv", "id,id\n1,2\n", "two columns are called 'id'"),
        ("a.jsonl", '{"id": 1}\n{"id": "secret\n{"id', "record 1.*no JSON: .*; 2 of 3 records"),
        ("a.json", '[{"id": "secret"}]', "record 0.*one object a line"),
        ("a.jsonl", '[\n {"id": "secret"}\n]', "record 0.*one object a line"),
        ("a.jsonl", "3\n", "record 0.*no object"),
        ("a.csv", "id,text\n1,secret\n".encode("utf-16"), "record 0.*UTF-16 .*write it as UTF-8"),
        ("a.jsonl", '{"id": "secret"}\n'.encode("utf-16"), "record 0.*write it as UTF-8"),
        ("a.avro", "secret", "record 0"),
    ],
)
def test_damage_is_told_by_record_and_quotes_nothing(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(CorruptInputError, match=says) as raised:
        surveyed(path)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_compressed_file_that_was_cut_short_is_damaged(tmp_path: Path) -> None:
    whole = gzip.compress(b"id,text\n" + b"".join(b"%d,x%d\n" % (n, n * n) for n in range(9999)))
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptInputError, match="record"):
        surveyed(str(tmp_path / "a.csv.gz"))


def test_other_files_are_no_records() -> None:
    names = ("a.parquet", "a.gz", "csv", "a.txt", "a.csv.zip", "a.CSV.GZ")
    assert [is_records_file(name) for name in names] == [False] * 5 + [True]


def broken(path: str) -> list[str | None]:
    """What is wrong with each record, None with those that are sound."""
    found = surveyed(path)
    with open(path, "rb") as file:
        batches = list(read_records(file, path, found.schema, found.schema.names, 3))
    said = [
        batch.column(BROKEN).to_pylist()
        if BROKEN in batch.schema.names
        else [None] * batch.num_rows
        for batch in batches
    ]
    assert sum(map(len, said)) == found.rows
    return [why for some in said for why in some]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2,secret,y", "3 fields where the first line names 2"),
        ("2", "1 fields where"),
        ('2,"secret"x', "',' expected after '\"'"),
        # Which would take the rest of the file for its own; or up to the next quote.
        ('2,"secret', "unexpected end of data"),
        ('2,"secret\n3,c\n4,"d"', "',' expected after '\"'"),
        ("2," + "x" * 4_000, "a record of more than"),
        ('2,"' + ("x" * 400 + "\n") * 9, "a record of more than"),
    ],
)
def test_a_row_of_csv_that_is_none_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    monkeypatch.setattr(records, "MOST_CHARACTERS", 3_000)
    sound = [f"{n},text {n}" for n in range(200, 300)]
    path = written(tmp_path / "a.csv", "\n".join(["id,text", "1,a", line, *sound]))
    found = broken(path)
    assert found[1] is not None and says in found[1] and "secret" not in found[1]
    assert found[-100:] == [None] * 100 and found[0] is None
    ids = [record["id"] for record in rows_of(path)]
    assert ids[0] == "1" and ids[-100:] == [str(n) for n in range(200, 300)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "secret"', "no JSON: Expecting ',' delimiter at character 1"),
        ('["secret"]', "an array; write one object a line"),
        ("7", "no object"),
        ("[" * 99_999, "maximum recursion depth exceeded"),
        (f'{{"id": {"[" * 980}{"]" * 980}}}', "maximum recursion depth exceeded"),
        ('{"id": ' + "9" * 9_999 + "}", "Exceeds the limit"),
        ('{"id": "' + "x" * 300_000 + '"}', "a record of more than"),
    ],
)
def test_a_line_of_json_that_is_none_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    monkeypatch.setattr(records, "MOST_CHARACTERS", 200_000)
    lines = [f'{{"id": {n}}}' for n in range(5)]
    path = written(tmp_path / "a.jsonl", "\n".join([*lines[:2], line, *lines[2:]]))
    found = broken(path)
    assert [why is None for why in found] == [True, True, False, True, True, True]
    assert says in str(found[2]) and "secret" not in str(found[2])
    assert [record["id"] for record in rows_of(path)] == [0, 1, None, 2, 3, 4]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_damaged_block_of_avro_costs_its_records(tmp_path: Path, codec: str) -> None:
    schema = {"type": "record", "name": "P", "fields": [{"name": "text", "type": "string"}]}
    records = [{"text": f"{n:04} secret" * 30} for n in range(200)]
    with open(tmp_path / "a.avro", "wb") as file:
        fastavro.writer(file, schema, records, codec, sync_interval=4_000)
    with open(tmp_path / "a.avro", "rb") as file:
        blocks = list(fastavro.block_reader(file))
    content = bytearray((tmp_path / "a.avro").read_bytes())
    # The size of its first text, or what deflate begins with: after number and size of records.
    content[blocks[3].offset + 4] ^= 0x7F
    path = written(tmp_path / "b.avro", bytes(content))
    before = sum(block.num_records for block in blocks[:3])
    damaged = range(before, before + blocks[3].num_records)
    found = broken(path)
    assert {row for row, why in enumerate(found) if why is not None} == set(damaged)
    assert "in a block that cannot be read" in str(found[before])
    expected = [{"text": None} if n in damaged else record for n, record in enumerate(records)]
    assert rows_of(path) == expected
    content[blocks[4].offset + blocks[4].size - 3] ^= 1
    with pytest.raises(CorruptInputError, match=r"record \d+.*a block is cut short, or its size"):
        surveyed(written(tmp_path / "c.avro", bytes(content)))
