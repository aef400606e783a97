"""What `drf evaluate` says where it cannot do what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import LABELS
from tests.pipelines.evaluate.conftest import Evaluate, write_labelled
from tests.support.running import Run


def last_line(run: Run) -> str:
    assert "Traceback" not in run.err
    return run.err.strip().splitlines()[-1]


def test_a_label_that_no_model_knows_is_named_with_its_place(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    path = write_labelled(tmp_path / "dev.parquet", 6, (*LABELS, "furious"))
    run = evaluate("--posts", path)
    assert run.code == 4
    assert last_line(run) == (
        "drf: error: dev.parquet: column 'label': found the label 'furious' in row 3 (counted "
        "from 0), expected one of the checkpoint's labels negative, neutral, positive; map the "
        "labels, or name another column with --label-column"
    )


def test_a_corpus_without_labels_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "dev.parquet", 6, (None,))
    run = evaluate("--posts", path)
    assert run.code == 2 and "no post has a label in column 'label'" in last_line(run)
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    run = evaluate("--posts", path)
    assert run.code == 4 and "column 'label': found no such column" in last_line(run)


def test_a_text_column_taken_for_labels_is_not_printed(evaluate: Evaluate, posts: Path) -> None:
    run = evaluate("--label-column", "text")
    assert run.code == 2 and "is read as another part of the post" in last_line(run)
    assert "sunny" not in run.err


def test_models_with_different_labels_are_refused(
    evaluate: Evaluate, make_tiny_checkpoint: Callable[..., Path]
) -> None:
    moods = make_tiny_checkpoint(labels=("bad", "good"))
    run = evaluate(f"--model=moods={moods}")
    assert run.code == 2
    assert "--model moods: its labels are bad, good, those of other negative" in last_line(run)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--baseline", "three"], "--baseline three: no such model; models are other, one"),
        (["--model", "elsewhere/one"], "another model is called 'one', too"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--model", "x="], "--model x=: names no checkpoint"),
        (["--threads", "-3"], "--threads: -3 is not a whole number of at least 0"),
        (["--posts", "./nowhere.parquet"], "--posts ./nowhere.parquet: no such file or folder"),
        (["--column", "image=PICTRE"], "column 'PICTRE': found no such column"),
        (
            ["--exclude-near-duplicates-of", "./nowhere*.parquet"],
            "--exclude-near-duplicates-of ./nowhere*.parquet: matches no file",
        ),
        (["--sed", "3"], "unknown option or argument: --sed"),
        (["--output", "s3://bucket/x"], "--output: is a URL; name a local folder"),
    ],
)
def test_a_mistake_gets_one_clear_line(evaluate: Evaluate, options: list[str], line: str) -> None:
    run = evaluate(*options)
    assert run.code in (2, 4)
    assert line in last_line(run) and last_line(run).startswith("drf: error:")


def test_nothing_left_after_near_duplicates_is_refused(evaluate: Evaluate, posts: Path) -> None:
    texts = evaluate("--exclude-near-duplicates-of", posts)
    assert texts.code == 2 and "every post shares its text or image" in last_line(texts)


def test_an_output_that_cannot_be_written_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = evaluate("--output", tmp_path / "file")
    assert run.code == 1 and "cannot be written" in last_line(run)


def test_what_else_lies_in_the_output_is_left_alone(evaluate: Evaluate, tmp_path: Path) -> None:
    notes = tmp_path / "out" / "_features" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    assert evaluate(models=("one",)).code == 0
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]
