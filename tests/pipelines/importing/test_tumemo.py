"""`drf import tumemo`: seven emotions, in the layout of its authors' downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.posts.labelled import labels_of, read_training_rows
from schemas.posts import PostColumns
from tests.data.raw_corpora import make_tumemo
from tests.support.imported import posts_in
from tests.support.running import Run

Drf = Callable[..., Run]

EMOTIONS = ("Angry", "Bored", "Calm", "Fear", "Happy", "Love", "Sad")


@pytest.mark.parametrize("data", ["all_data", "data"])
def test_the_seven_emotions(drf: Drf, tmp_path: Path, data: str):
    labels = {str(number): EMOTIONS[number % 7] for number in range(21)}
    raw = make_tumemo(tmp_path / "raw", labels, data)
    run = drf("import", "tumemo", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    posts = posts_in(tmp_path / "out")
    assert {post_id: post["label"] for post_id, post in posts.items()} == {
        post_id: label.lower() for post_id, label in labels.items()
    }
    rows = read_training_rows([str(tmp_path / "out" / "train.parquet")], PostColumns(), "label")
    assert labels_of(rows) == tuple(sorted({row.label for row in rows}))
    assert {(row.text, row.image) for row in rows} == {
        (post["text"], post["image"]) for post in posts.values() if post["split"] == "train"
    }
    assert posts["0"]["image"] == (raw / data / "0.jpg").read_bytes()


def test_an_eighth_emotion_is_an_error_that_names_the_line(drf: Drf, tmp_path: Path):
    raw = make_tumemo(tmp_path / "raw", {"0": "Happy", "1": "Amused"})
    run = drf("import", "tumemo", raw, "--output", tmp_path / "out")
    assert run.code == 1
    assert "all_data_id_and_label.txt: line 3: unknown label 'Amused'; known are angry" in run.err


def test_the_authors_split_files_are_read(drf: Drf, tmp_path: Path):
    raw = make_tumemo(tmp_path / "raw", dict.fromkeys("012345", "Calm"))
    sides = {"train": "013", "dev": "2", "test": "4"}
    for name, ids in sides.items():
        notes = [{"id": post_id, "text": "calm\u2028and blue", "label": "calm"} for post_id in ids]
        lines = [json.dumps(note, ensure_ascii=False) for note in notes]
        (tmp_path / f"{name}_all_anno.json").write_text("\n".join(lines))
    files = [f"{name}={tmp_path}/{name}_all_anno.json" for name in sides]
    run = drf("import", "tumemo", raw, "--output", tmp_path / "out", "--splits", *files)
    assert run.code == 0, run.err
    posts = posts_in(tmp_path / "out")
    assert {name: {i for i, p in posts.items() if p["split"] == name} for name in sides} == {
        name: set(ids) for name, ids in sides.items()
    }
    assert "in no split file 1" in run.out
