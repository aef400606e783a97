"""What the columns of an annotation say of a post, from input file to published row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.corpora import image_bytes, make_posts, write_posts
from tests.support.running import Output, Run

Annotate = Callable[..., Run]


def test_evidence_damage_and_the_share_read_stand_beside_each_state(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    texts = {
        "plain": "What a lovely morning at the lake",
        "long": "What a lovely morning at the lake. " * 2000,
        "mask": "What a [MASK] morning at the [SEP]",
        "chinese": "这家餐厅的服务太差了,我再也不会来了",
        "none": None,
    }
    posts = make_posts(3) + [
        {"post_id": name, "text": text, "image": image_bytes(number)}
        for number, (name, text) in enumerate(texts.items(), 100)
    ]
    run = annotate(write_posts(tmp_path / "posts.parquet", posts))

    assert run.code == 0, run.err
    rows = {row["post_id"]: row for row in output.annotations}
    assert set(rows) == {post["post_id"] for post in posts}
    for row in rows.values():
        assert row["schema_version"] == 2
        for name in ("text", "image"):
            assert math.isfinite(row[f"{name}_evidence"])
            low = row[f"{name}_state"] == "low_quality"
            assert (row[f"{name}_damage"] is not None) == low
            recovered = row[f"{name}_state"] == "recovered"
            assert (row[f"{name}_score"] is None) == recovered
            assert low == (row[f"{name}_quality"] < 0.05 and row[f"{name}_reason"] is None)
    assert rows["plain"]["text_share_read"] == rows["mask"]["text_share_read"] == 1
    assert 0 < rows["long"]["text_share_read"] < 0.5
    assert rows["none"]["text_share_read"] is None and rows["none"]["text_reason"] == "missing"
    assert rows["chinese"]["text_damage"] == "unfamiliar"
    # Read as words, not as tokens that hide what was there.
    assert rows["mask"]["text_reason"] is None


def test_another_prior_moves_labels_and_computes_anew(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    source = write_posts(tmp_path / "posts.parquet", make_posts(8))
    assert annotate(source).code == 0
    before = output.annotations
    run = annotate(source, "--prior", "negative=0.2,neutral=0.2,positive=0.6")

    assert run.code == 0, run.err
    for old, new in zip(before, output.annotations, strict=True):
        odds = [row["probabilities"]["positive"] / row["probabilities"]["negative"]
                for row in (old, new)]  # fmt: skip
        assert odds[1] == pytest.approx(3 * odds[0], rel=1e-3)
        for name in ("text_quality", "image_quality", "text_state"):
            assert new[name] == old[name]


@pytest.mark.parametrize(
    "prior", ["positive=1", "negative=0.5,neutral=0.5,positive=0.5", "negative=x", "sad=1"]
)
def test_a_prior_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, annotate: Annotate, prior: str
) -> None:
    run = annotate(write_posts(tmp_path / "posts.parquet", make_posts(1)), "--prior", prior)
    assert run.code != 0
    last = run.err.strip().splitlines()[-1]
    assert f"--prior {prior}: " in last and "Traceback" not in run.err
