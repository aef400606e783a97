"""`drf import table`: one's own posts, from csv, tsv or jsonl with image paths."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.data.corpora import image_bytes
from tests.support.imported import posts_in
from tests.support.running import Run

Drf = Callable[..., Run]

ROWS = (
    ("a1", 'First line\nand a second, with a comma and "quotes"', "pictures/1.jpg", "good"),
    ("a2", "🎉 Ünïcode", "{absolute}/pictures/2.jpg", "bad"),
    ("a3", "No picture here", "", "good"),
    ("a4", "Its picture is lost", "pictures/lost.jpg", "bad"),
    ("a5", "", "pictures/3.jpg", "good"),
    ("a6", "Nobody has labelled this", "pictures/3.jpg", ""),
)
COLUMNS = ("id", "body", "photo", "mood")
NAMED = ["--column", "post_id=id", "--column", "text=body", "--column", "image=photo"]
NAMED += ["--label-column", "mood"]


def write_table(path: Path, rows: Sequence[Sequence[object]] = ROWS, columns=COLUMNS) -> Path:
    (path.parent / "pictures").mkdir(exist_ok=True)
    for number in (1, 2, 3):
        (path.parent / "pictures" / f"{number}.jpg").write_bytes(image_bytes(number))
    rows = [[str(cell).replace("{absolute}", str(path.parent)) for cell in row] for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for row in rows:
                named = {n: cell for n, cell in zip(columns, row, strict=True) if cell}
                file.write(json.dumps(named) + "\n")
        else:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([columns, *rows])
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_becomes_posts(drf: Drf, tmp_path: Path, suffix: str):
    table = write_table(tmp_path / f"posts.{suffix}")
    run = drf("import", "table", table, "--output", tmp_path / "out", *NAMED)
    assert run.code == 0, run.err
    posts = posts_in(tmp_path / "out")
    assert {post_id: post["label"] for post_id, post in posts.items()} == {
        "a1": "good",
        "a2": "bad",
        "a3": "good",
        "a4": "bad",
        "a5": "good",
    }
    assert posts["a1"]["text"] == ROWS[0][1]
    assert posts["a1"]["image"] == image_bytes(1)
    assert posts["a2"]["image"] == image_bytes(2)
    assert posts["a3"]["image"] is None and posts["a4"]["image"] is None
    assert posts["a5"]["text"] is None
    assert "without a label 1" in run.out
    assert "file missing or empty 1" in run.out and "no file named 1" in run.out
    assert f"the first is {tmp_path}/pictures/lost.jpg" in run.out


def test_a_label_column_that_holds_no_labels_is_noticed(drf: Drf, tmp_path: Path):
    table = tmp_path / "posts.csv"
    rows = "".join(f"{number},text of {number},label {number}\n" for number in range(30))
    table.write_text(f"post_id,text,label\n{rows}")
    run = drf("import", "table", table, "--output", tmp_path / "out", "--column", "image=")
    assert run.code == 0, run.err
    assert "30 different labels; is --label-column the right one?" in run.out
    assert "label 17" not in run.out


def test_integer_ids_and_texts_without_images(drf: Drf, tmp_path: Path):
    table = tmp_path / "posts.jsonl"
    lines = [{"post_id": n, "text": f"text {n}", "label": "ab"[n % 2]} for n in range(4)]
    table.write_text("\n".join(map(json.dumps, lines)))
    run = drf("import", "table", table, "--output", tmp_path / "out", "--column", "image=")
    assert run.code == 0, run.err
    assert posts_in(tmp_path / "out").keys() == {"0", "1", "2", "3"}


@pytest.mark.parametrize("role", ["id", "body", "photo", "mood"])
def test_a_missing_column_is_named_with_the_way_out(drf: Drf, tmp_path: Path, role: str):
    table = write_table(
        tmp_path / "posts.csv", columns=[f"{c}x" * (c == role) or c for c in COLUMNS]
    )
    run = drf("import", "table", table, "--output", tmp_path / "out", *NAMED)
    assert run.code == 4
    assert f"column '{role}': found no such column" in run.err
    assert "--label-column" in run.err if role == "mood" else "--column" in run.err
    assert f"{role}x" in run.err


def test_a_file_that_cannot_be_read_is_named_with_row_and_column(drf: Drf, tmp_path: Path):
    table = write_table(tmp_path / "posts.csv", [("a1", "text", "pictures", "good")])
    run = drf("import", "table", table, "--output", tmp_path / "out", *NAMED)
    assert run.code == 1
    assert "posts.csv: line 2: column 'image': " in run.err
    assert "pictures cannot be read (Is a directory)" in run.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "p.csv",
            b"post_id,text,image,label\n1,a,,x\n1,b,,x\n",
            "line 3: post id '1' was labelled",
        ),
        ("p.csv", b"post_id,text,image,label\n,a,,x\n", "line 2: has no post id"),
        ("p.csv", b"post_id,text,image,label\n1,a, b,,x\n", "line 2: has 5 fields, the header 4"),
        ("p.csv", b"post_id,text,image,label\n1,caf\xe9,,x\n", "is not UTF-8"),
        ("p.csv", b"post_id,text,text,label\n1,a,,x\n", "more than one column 'text'"),
        ("p.csv", b'post_id,text,image,label\n1,"a,,x\n', "unexpected end of data"),
        ("p.csv", b"post_id,text,image,label\n", "holds no posts"),
        ("p.csv", b"post_id,text,image,label\n1,a,,\n", "no post has a label in column 'label'"),
        ("p.jsonl", b'{"post_id": 1, "text": 2, "label": "x"}', "line 1: column 'text': found int"),
        ("p.jsonl", b'{"post_id": 1}\n{"post_id', "line 2: is not valid JSON"),
        ("p.jsonl", b"[1]", "line 1: expected an object"),
        ("p.jsonl", b"[" * 100_000, "line 1: is not valid JSON"),
        (
            "p.csv",
            b"post_id,text,image,label\n1,a,https://user:secret@host/1.jpg?key=secret,x\n",
            "line 2: column 'image': is a URL, expected the path of a file",
        ),
        ("p.parquet", b"", "expected a table called *.csv, *.tsv or *.jsonl"),
    ],
)
def test_bad_tables_end_in_one_clear_line(
    drf: Drf, tmp_path: Path, name: str, content: bytes, told: str
):
    (tmp_path / name).write_bytes(content)
    run = drf("import", "table", tmp_path / name, "--output", tmp_path / "out")
    assert run.code in (1, 2) and told in run.err
    assert run.err.count("\n") == 1 and "secret" not in run.err


def test_half_an_emoji_does_not_cost_its_post(drf: Drf, tmp_path: Path):
    table = tmp_path / "posts.jsonl"
    cut, pair = r"A long morning \ud83d", r"A long evening \ud83c\udf89"
    lines = [f'{{"post_id": "{t[7:11]}", "text": "{t}", "label": "x"}}' for t in (cut, pair)]
    table.write_text("\n".join(lines))
    run = drf("import", "table", table, "--output", tmp_path / "out", "--column", "image=")
    assert run.code == 0, run.err
    texts = {post["text"] for post in posts_in(tmp_path / "out").values()}
    assert texts == {"A long morning \ufffd", "A long evening 🎉"}


def test_texts_are_not_taken_for_labels(drf: Drf, tmp_path: Path):
    table = write_table(tmp_path / "posts.csv")
    options = ("--output", tmp_path / "out", *NAMED, "--label-column", "body")
    run = drf("import", "table", table, *options)
    assert run.code == 2 and "--label-column body: is read as another part" in run.err
    assert "Ünïcode" not in run.err + run.out


def test_columns_are_named_for_tables_only(drf: Drf, tmp_path: Path):
    run = drf("import", "tumemo", tmp_path, "--output", tmp_path / "out", "--label-column", "x")
    assert run.code == 2 and "--label-column: only tables have columns" in run.err
    arguments = ("--output", tmp_path / "out", "--column", "image_uri=u")
    run = drf("import", "table", tmp_path / "p.csv", *arguments)
    assert run.code == 2 and "say image=NAME" in run.err


def test_posts_without_labels_become_one_file(drf: Drf, tmp_path: Path):
    table = write_table(tmp_path / "posts.csv")
    run = drf("import", "table", table, "--output", tmp_path / "out", *NAMED, "--label-column=")
    assert run.code == 0, run.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["posts.parquet"]
    posts = posts_in(tmp_path / "out")
    assert [*posts] == [row[0] for row in ROWS]
    assert {post["label"] for post in posts.values()} == {None}


@pytest.mark.parametrize("image", ["/etc/hostname", "../outside.jpg", "link/outside.jpg"])
def test_a_table_names_no_file_outside_its_folder(tmp_path: Path, drf: Drf, image: str) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "outside.jpg").write_bytes(b"a secret")
    rows = "".join(f"{n},text {n},{image},{'ab'[n % 2]}\n" for n in range(20))
    (folder / "posts.csv").write_text(f"post_id,text,image,label\n{rows}")
    arguments = ("import", "table", folder / "posts.csv", "--output", tmp_path / "out")
    run = drf(*arguments)
    assert run.code == 1
    assert "outside the table's folder" in run.err and "line 2" in run.err
    if image != "/etc/hostname":
        assert drf(*arguments, "--image-folder", tmp_path).code == 0
