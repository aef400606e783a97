"""`drf adapt`: qualities become ranks among one's own posts, without labels or training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from drf_core.annotator import Annotator
from pipelines.posts.labelled import read_training_rows
from pipelines.train import adapt
from schemas.posts import PostColumns
from tests.data.corpora import make_posts, write_posts
from tests.support.running import Run

Drf = Callable[..., Run]


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    """Two nights of texts unlike those that the checkpoint knows, some without an image."""
    rng = np.random.default_rng(0)
    for night, first in (("dt=2026-11-17", 0), ("dt=2026-11-18", 60)):
        posts = make_posts(60, first)
        for number, post in enumerate(posts):
            words = rng.integers(10**6, size=rng.integers(1, 9))
            post["text"] = " ".join(f"kummallinen{word}" for word in words)
            if number % 5 == 0:
                post["image"] = None
        (tmp_path / "nights" / night).mkdir(parents=True)
        write_posts(tmp_path / "nights" / night / "posts.parquet", posts)
    return tmp_path / "nights"


def low_texts(checkpoint: Path, nights: Path) -> float:
    annotator = Annotator.from_pretrained(str(checkpoint), threads=1)
    rows = read_training_rows([str(nights)], PostColumns(), None)
    posts = [annotator.prepare(row.text, row.image) for row in rows]
    said = annotator.predict(posts)
    return sum(one.text.state == "low_quality" for one in said) / len(said)


def test_a_twentieth_of_ones_own_posts_is_of_low_quality_afterwards(
    drf: Drf, nights: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = low_texts(tiny_checkpoint, nights)
    run = drf("adapt", "--posts", nights, "--model", tiny_checkpoint, "--output", tmp_path / "own")
    assert run.code == 0, run.err
    after = low_texts(tmp_path / "own", nights)
    assert not 0.03 <= before <= 0.07
    assert 0.03 <= after <= 0.07
    # Said where people read it: on the terminal, on the card, in the configuration.
    shares = f"| text | 120 | {before:.3f} | {after:.3f} |"
    assert shares in run.out and shares in (tmp_path / "own" / "README.md").read_text()
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["reference_files"] == [f"dt=2026-11-{n}/posts.parquet" for n in (17, 18)]
    assert config["adapted"]["posts"] == 120


def test_what_is_fitted_hangs_on_the_posts_alone(
    drf: Drf,
    nights: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many workers there are, whatever the files' row groups, and with posts drawn."""
    monkeypatch.setattr(adapt, "MOST_POSTS", 90)
    given = ("adapt", "--posts", nights, "--model", tiny_checkpoint, "--output")
    assert drf(*given, tmp_path / "one").code == 0
    for file in nights.glob("*/*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=7)
    monkeypatch.setattr(adapt, "fill_units", _a_unit_each)
    assert drf(*given, tmp_path / "other", "--direct_num_workers=3").code == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert all((one[name] == other[name]).all() for name in one)
    before = load_file(tiny_checkpoint / "model.safetensors")
    changed = {name.partition(".")[0] for name in one if (one[name] != before[name]).any()}
    assert changed == {"quality", "recovery", "paired_queue"}
    assert 60 < json.loads((tmp_path / "one" / "config.json").read_text())["adapted"]["posts"] < 115


def _a_unit_each(shards: list, files: object, workers: int) -> tuple:
    from pipelines.annotate.job import WorkUnit

    return tuple(WorkUnit((shard,)) for shard in reversed(shards))


def test_posts_without_images_leave_the_images_reference(
    drf: Drf, nights: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for file in nights.glob("*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("image"), file)
    run = drf("adapt", "--posts", nights, "--model", tiny_checkpoint, "--column", "image=",
              "--output", tmp_path / "own")  # fmt: skip
    assert run.code == 0, run.err
    one, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "own", tiny_checkpoint)
    )
    changed = {name.split(".")[1] for name in one if (one[name] != before[name]).any()}
    assert changed == {"text"}


def test_mistakes_are_told_in_one_line(
    drf: Drf, nights: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given = ("adapt", "--model", tiny_checkpoint, "--output")
    run = drf(*given, tiny_checkpoint, "--posts", nights)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "holds a checkpoint; name another folder" in run.err
    few = tmp_path / "few.parquet"
    pq.write_table(
        pa.table({"post_id": ["1", "2"], "text": ["a", " "], "image": [None, b"x"]}), few
    )
    run = drf(*given, tmp_path / "own", "--posts", few)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "1 of 2 posts have a text or an image that can be used; at least 20" in run.err
    (nights / "dt=2026-11-18" / "posts.parquet").write_bytes(b"PAR1 cut off")
    run = drf(*given, tmp_path / "own", "--posts", nights)
    assert run.code and "dt=2026-11-18/posts.parquet" in run.err
    assert not (tmp_path / "own" / "config.json").exists()
