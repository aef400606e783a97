"""Posts that `drf train` holds out where no validation posts are given."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.posts.labelled import LabelledRow, hold_out
from pipelines.posts.splits import assign_splits
from schemas.errors import UsageError
from tests.support.training_runs import (
    drf_train,
    one_epoch,
)


def labelled_rows(count: int) -> list[LabelledRow]:
    return [
        LabelledRow(str(number), f"a text of its own, number {number}", b"%d" % number, "positive")
        for number in range(count)
    ]


def test_about_a_tenth_is_held_out_by_the_seed() -> None:
    rows = labelled_rows(2000)
    kept, held = hold_out(rows, 0)
    assert sorted(kept + held, key=lambda row: int(row.post_id or 0)) == rows
    assert 150 < len(held) < 250
    assert hold_out(rows, 0) == (kept, held) != hold_out(rows, 1)


def test_posts_that_share_a_text_or_an_image_are_never_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    rows = [
        LabelledRow(
            str(number),
            f"words that {rng.integers(400)} posts may share" if number % 3 else None,
            b"image %d" % rng.integers(400) if number % 2 else None,
            "positive",
        )
        for number in range(300)
    ]
    kept, held = hold_out(rows, 0)
    assert len(held) > 5
    for name in ("text", "image"):
        sides = [{getattr(row, name) for row in side} - {None} for side in (kept, held)]
        assert not sides[0] & sides[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_that_an_import_made_can_be_split_again(seed: int) -> None:
    rows = labelled_rows(1000)
    sides = assign_splits([row.post_id or "" for row in rows], range(1000), seed)
    train = [row for row, side in zip(rows, sides, strict=True) if side == "train"]
    _, held = hold_out(train, seed)
    assert 50 < len(held) < 110


@pytest.mark.parametrize("count", [2, 60])
def test_posts_that_cannot_be_split_are_refused_with_the_way_out(
    corpus: Path, tmp_path: Path, count: int
) -> None:
    rows = pq.read_table(corpus / "train.parquet").slice(20, count).to_pylist()
    for row in rows:
        row["image"] = rows[0]["image"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "alike.parquet")
    options = ("--posts", str(tmp_path / "alike.parquet"))
    result = drf_train(corpus, tmp_path / "out", *options, validation=False)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert f"--posts: {count} posts cannot be split; give others with --validation" in last


def test_a_side_without_labels_is_no_split() -> None:
    rows = labelled_rows(100)
    kept, held = hold_out(rows, 0)
    for side in (kept, held):
        unlabelled = [dataclasses.replace(row, label=None) if row in side else row for row in rows]
        with pytest.raises(UsageError, match="100 posts cannot be split"):
            hold_out(unlabelled, 0)


def test_training_without_validation_posts_holds_some_out(corpus: Path, tmp_path: Path) -> None:
    result = drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path), validation=False)
    assert result.returncode == 0, result.stderr
    line = result.stderr.splitlines()[0]
    trained, held = (int(number) for number in re.findall(r"(\d+) (?:posts|to validate)", line))
    assert trained + held == 160 and 5 < held < 30
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--validation" not in card and "drf train --posts" in card
