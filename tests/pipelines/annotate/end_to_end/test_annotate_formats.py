"""`drf annotate` on exports that are no Parquet: CSV, JSON Lines, Avro."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro

from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output, Run

Annotate = Callable[..., Run]


def write_csv(path: Path, posts: list[dict[str, Any]]) -> None:
    lines = [f'{post["post_id"]},"{post["text"]}\n(second line)",en' for post in posts]
    path.write_bytes(gzip.compress("\n".join(["post_id,text,lang", *lines]).encode()))


def write_jsonl(path: Path, posts: list[dict[str, Any]]) -> None:
    records = [{"post_id": p["post_id"], "text": p["text"], "lang": "de"} for p in posts]
    path.write_text("\n".join(json.dumps(record) for record in records))


def write_avro(path: Path, posts: list[dict[str, Any]]) -> None:
    names = {"post_id": "string", "text": "string", "lang": ["null", "string"]}
    fields = [{"name": name, "type": type_} for name, type_ in names.items()]
    records = [{"post_id": p["post_id"], "text": p["text"], "lang": "fr"} for p in posts]
    with open(path, "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "Post", "fields": fields}, records)


def test_records_are_posts_like_any_other(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    folder = tmp_path / "exports" / "dt=2026-11-20"
    folder.mkdir(parents=True)
    posts = make_posts(25)
    write_csv(folder / "a.csv.gz", posts)
    write_jsonl(folder / "b.jsonl", posts)
    write_avro(folder / "c.avro", posts)
    (folder / "export.json").write_text("{}")
    arguments = (tmp_path / "exports", "--column", "image=", "--keep", "lang", "--shard-rows", 10)

    run = annotate(*arguments)

    assert run.code == 0, run.err
    names = [f"dt=2026-11-20/{name}" for name in ("a.csv.gz", "b.jsonl", "c.avro")]
    assert output.places() == [(name, row) for name in names for row in range(25)]
    rows = {(row["source_file"], row["source_row"]): row for row in output.annotations}
    for name, language in zip(names, ("en", "de", "fr"), strict=True):
        assert rows[name, 7]["post_id"] == posts[7]["post_id"]
        assert rows[name, 7]["lang"] == language
    assert annotate(*arguments).manifest["computed_rows"] == 0

    write_jsonl(folder / "b.jsonl", posts[:12])
    again = annotate(*arguments).manifest
    assert again["computed_rows"] == 12
    assert output.places() == [
        (name, row) for name in names for row in range(12 if name == names[1] else 25)
    ]


def test_a_broken_record_is_a_dead_letter_and_nothing_else(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", make_posts(30))
    with open(folder / "a.jsonl", "a") as file:
        file.write('\n{"post_id": "secret')
    rows = [f"{n},text {n},en" for n in range(40)]
    rows[7] = "7,secret, and more,en"
    (folder / "b.csv").write_text("\n".join(["post_id,text,lang", *rows]))
    arguments = (folder, "--column", "image=", "--keep", "lang")

    run = annotate(*arguments)

    assert run.code == 0, run.err
    assert output.places() == [("a.jsonl", n) for n in range(31)] + [
        ("b.csv", n) for n in range(40)
    ]
    letters = {(row["source_file"], row["source_row"]): row for row in output.dead_letters}
    assert {place: row["reason"] for place, row in letters.items()} == {
        ("a.jsonl", 30): "broken_record",
        ("b.csv", 7): "broken_record",
    }
    assert letters["b.csv", 7]["message"] == "4 fields where the first line names 3"
    assert "secret" not in str(letters)
    assert run.manifest["totals"]["dead_letter_reasons"] == {"broken_record": 2}
    assert annotate(*arguments).manifest["computed_rows"] == 0


def test_a_damaged_file_of_records_fails_alone(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", make_posts(3))
    (tmp_path / "in" / "b.csv").write_text("post_id,text\n1,secret,y\n2,secret,y\n")

    run = annotate(tmp_path / "in", "--column", "image=")

    assert run.code == 4
    assert "b.csv cannot be read (record 0, counted from 0: 3 fields" in run.err
    assert "secret" not in run.err
    assert output.places() == [("a.jsonl", row) for row in range(3)]


def test_of_a_folder_with_parquet_the_rest_is_no_input(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_posts(tmp_path / "in" / "a.parquet", make_posts(3))
    (tmp_path / "in" / "labels.csv").write_text("post_id,label\n1,x\n")
    assert annotate(tmp_path / "in").code == 0
    assert output.places() == [("a.parquet", row) for row in range(3)]


def test_paths_of_images_begin_at_the_folder_that_was_named(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(make_posts(1)[0]["image"])
    (tmp_path / "secret.jpg").write_bytes(make_posts(1)[0]["image"])
    lines = ["id,text,photo", "1,sunny,1.jpg", "2,sunny,gone.jpg", "3,sunny,../secret.jpg"]
    (tmp_path / "posts.csv").write_text("\n".join(lines))

    run = annotate(
        tmp_path / "posts.csv",
        *("--column", "post_id=id", "--column", "image=photo"),
        *("--image-folder", tmp_path / "photos"),
    )

    assert run.code == 0, run.err
    found = [(row["image_state"], row["image_reason"]) for row in output.annotations]
    assert found[0][0] in ("present", "low_quality")
    assert found[1:] == [("recovered", "gone"), ("recovered", "not_allowed")]


def test_columns_that_all_files_lack_are_told_once(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.csv").write_text("tweet_id,body,photo\n1,x,y\n")
    run = annotate(tmp_path / "in")
    assert run.code == 2
    assert run.err == (
        "drf: error: --input: 3 of 3 files lack post_id, text and image; they have tweet_id, "
        "body, photo; say --column post_id=tweet_id --column text=body --column image=photo\n"
    )


def test_date_folders_without_keys_are_partitions(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    for day in ("20", "21"):
        folder = tmp_path / "exports" / "2026" / "11" / day
        folder.mkdir(parents=True)
        write_jsonl(folder / "posts.jsonl", make_posts(3))
    dates = ("--partition", "dt={:%Y/%m/%d}", "--column", "image=")

    run = annotate(tmp_path / "exports", *dates)

    assert run.code == 0, run.err
    assert output.succeeded() == ["dt=2026-11-20", "dt=2026-11-21"]
    counted = output.duckdb("select dt::varchar, count(*) from annotations group by 1 order by 1")
    assert counted == [("2026-11-20", 3), ("2026-11-21", 3)]
    # A night by itself has the same names, so that nothing is computed again.
    night = annotate(tmp_path / "exports" / "2026" / "11" / "21", *dates)
    assert (night.code, night.manifest["computed_rows"]) == (0, 0)
