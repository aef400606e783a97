from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.annotate.review.accuracy import weighted_accuracy
from pipelines.annotate.review.draw import draw_posts
from pipelines.annotate.review.formats import read_answers, write_posts
from pipelines.cli import main
from schemas.errors import UsageError
from tests.data.corpora import make_posts
from tests.data.corpora import write_posts as write_corpus
from tests.pipelines.annotate.report.test_write import NIGHT, run

POST = {
    "post_id": "p1",
    "source_file": NIGHT,
    "source_row": 3,
    "label": "positive",
    "confidence": 0.5,
    "kind": "random",
    "weight": 4.0,
    "run_id": "run-1",
    "text": '=HYPERLINK("http://evil")\0',
    "image": None,
}


def world(posts: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, quality, and whether each label is right, by its confidence."""
    rng = np.random.default_rng(99)
    confidence, quality = rng.uniform(0.34, 1.0, posts), rng.uniform(0.002, 1.0, posts)
    return confidence, quality, rng.random(posts) < confidence


def test_answers_weighted_back_are_right_about_all_posts() -> None:
    confidence, quality, right = world()
    covered, values, plain = 0, [], []
    for seed in range(300):
        drawn = draw_posts(confidence, quality, 200, seed)
        said = weighted_accuracy(right[drawn.rows], drawn.weights)
        values.append(said.value)
        plain.append(right[drawn.rows].mean())
        covered += said.low <= right.mean() <= said.high
    assert np.mean(values) == pytest.approx(right.mean(), abs=0.006)
    assert 0.92 < covered / 300 <= 0.99
    # Without the weights the uncertain posts would count too much.
    assert np.mean(plain) < right.mean() - 0.01


def test_what_is_uncertain_or_strange_is_drawn_more_often() -> None:
    confidence, quality, _ = world()
    drawn = draw_posts(confidence, quality, 2_000, 0)
    assert len(drawn.rows) == len({*drawn.rows}) == 2_000
    assert {*drawn.kinds} == {"random", "uncertain", "strange"}
    assert (quality[drawn.rows] < 0.05).mean() > 2 * (quality < 0.05).mean()
    assert confidence[drawn.rows].mean() < confidence.mean()
    assert drawn.weights.sum() == pytest.approx(len(confidence), rel=0.1)
    again = draw_posts(confidence, quality, 2_000, 0)
    assert np.array_equal(drawn.rows, again.rows)


def test_of_few_posts_all_are_drawn_and_the_accuracy_is_exact() -> None:
    drawn = draw_posts(np.full(5, 0.5), np.full(5, 0.5), 10, 0)
    assert list(drawn.rows) == [0, 1, 2, 3, 4] and set(drawn.weights) == {1.0}
    said = weighted_accuracy(np.array([1, 1, 0, 1, 0], bool), drawn.weights)
    assert (said.value, said.low, said.high) == (0.6, 0.6, 0.6)


def test_answers_that_all_agree_leave_an_interval() -> None:
    said = weighted_accuracy(np.ones(20, bool), np.full(20, 50.0))
    assert said.value == said.high == 1.0 and 0.8 < said.low < 0.9


def test_a_table_goes_out_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    write_posts(path, "csv", [POST, {**POST, "source_row": 4}], ["negative", "positive"])
    rows = list(csv.DictReader(path.open(newline="")))
    # A spreadsheet shall not run what somebody posted.
    assert rows[0]["text"].startswith("'=") and "\0" not in path.read_text()
    assert read_answers(path) == []
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows([{**rows[0], "answer": " negative "}, rows[1]])
    (answer,) = read_answers(path)
    assert (answer["answer"], answer["weight"], answer["source_row"]) == ("negative", 4.0, 3)


def test_label_studio_and_argilla_give_answers(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_posts(path, "label-studio", [POST], ["positive"])
    (task,) = json.loads(path.read_text())
    chosen = {"result": [{"type": "choices", "value": {"choices": ["neutral"]}}]}
    path.write_text(json.dumps([{**task, "annotations": [chosen]}]))
    assert [one["answer"] for one in read_answers(path)] == ["neutral"]
    cancelled = {**chosen, "was_cancelled": True}
    path.write_text(json.dumps([{**task, "annotations": [cancelled]}]))
    assert read_answers(path) == []
    write_posts(path, "argilla", [POST], ["positive"])
    record = json.loads(path.read_text())
    record["responses"] = {"label": [{"value": "negative", "status": "submitted"}]}
    path.write_text(json.dumps(record) + "\n")
    assert [one["answer"] for one in read_answers(path)] == ["negative"]


@pytest.mark.parametrize("text", ["[1, 2", '{"a"'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(UsageError, match="none of the formats"):
        read_answers(tmp_path / "x")


def test_a_night_is_reviewed_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = make_posts(9)
    posts[0] |= {"image": None, "image_uri": "https://media.example.org/0.jpg"}
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    write_corpus(tmp_path / "in" / NIGHT, posts, types={**types, "image_uri": pa.string()})
    run(tmp_path / "out", tmp_path / "in")
    out, table, train = str(tmp_path / "out"), tmp_path / "r.csv", tmp_path / "train.parquet"
    assert main(["review", out, "--export", str(table), "--n", "100"]) == 0
    assert table.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(table.open(newline="")))
    shown = [row["image"] for row in rows]
    assert "https://media.example.org/0.jpg" in shown
    pictures = [Image.open(tmp_path / name) for name in shown if not name.startswith("https:")]
    assert len(pictures) == 8 and all(max(one.size) <= 384 for one in pictures)
    # The stand-in says a third of each label; let a third of its labels be right.
    for row in rows:
        row["answer"] = "positive"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert main(["review", out, "--import", str(table), "--posts", str(train)]) == 0
    said = capsys.readouterr().out
    assert "accuracy      33.3% of all posts (33.3% to 33.3%), by 9 answers" in said
    assert f"{train}, without the images of 1 posts: addresses" in said
    labelled = pq.read_table(train).to_pylist()
    assert [one["image"] for one in labelled] == [post["image"] for post in posts]
    assert {one["label"] for one in labelled} == {"positive"}
