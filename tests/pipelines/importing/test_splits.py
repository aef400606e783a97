"""Splits of an import: seeded, stable, without leaks, or as published; and what is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.importing import write_splits
from pipelines.posts.duplicates import comparable_text, fingerprints, group_posts
from pipelines.posts.splits import assign_splits
from tests.data.raw_corpora import make_mvsa, write_post
from tests.support.imported import posts_in
from tests.support.running import Run

Drf = Callable[..., Run]


def split_of(ids: list[str], seed: int = 0) -> dict[str, str]:
    return dict(zip(ids, assign_splits(ids, range(len(ids)), seed), strict=True))


def test_shares_are_eight_to_one_to_one():
    counts = Counter(split_of([str(number) for number in range(20_000)]).values())
    assert counts["train"] == pytest.approx(16_000, abs=250)
    assert counts["dev"] == pytest.approx(2_000, abs=200)
    assert counts["test"] == pytest.approx(2_000, abs=200)


def test_a_seed_makes_its_own_split_and_the_same_every_time():
    ids = [str(number) for number in range(500)]
    assert split_of(ids) == split_of(ids[::-1])
    assert split_of(ids) != split_of(ids, seed=1)


def test_new_posts_move_no_other():
    before = split_of([str(number) for number in range(0, 500, 2)])
    after = split_of([str(number) for number in range(500)])
    assert all(after[post_id] == split for post_id, split in before.items())


def test_a_group_stays_where_its_first_post_was_when_later_ones_join():
    for number in range(50):
        alone = assign_splits([str(number)], [0], 0)
        assert assign_splits(["100", str(number), "0100"], [0, 0, 0], 0) == alone * 3


def test_posts_that_share_something_are_one_group_over_any_number_of_steps():
    groups = group_posts([(b"a",), (b"b",), (), (b"c", b"b"), (b"a", b"c"), (b"d",), ()])
    assert groups == [0, 0, 2, 0, 0, 5, 6]


@pytest.mark.parametrize(
    "other",
    [
        "RT @someone: a LOVELY  morning at the lake!!! http://t.co/abc",
        "@you @me A lovely morning at the lake &amp; htt…",
        "a lovely morning, at the lake 🎉 https://t.co/x?y=z",
        "a lovely morning at the lake http",
        "a lovely morning at the lake http:/…",
    ],
)
def test_a_retweet_is_the_same_text(other: str):
    assert comparable_text(other) == comparable_text("A lovely morning at the lake")


def test_texts_that_say_little_glue_nothing_together():
    for text in ("", "???", "RT @a: ok", "#sad", "http://t.co/abc", "@a @b @c @d", "good night"):
        assert comparable_text(text) == ""
        assert fingerprints(text, None) == ()
    assert comparable_text("什么都好，今天天气真不错，我们走吧") != ""


def test_posts_that_share_a_text_or_an_image_are_on_one_side(drf: Drf, tmp_path: Path):
    labels = {str(number): "neutral,neutral" for number in range(60)}
    raw = make_mvsa(tmp_path / "raw", labels)
    for number in range(0, 60, 3):
        copy = (raw / "data" / f"{number}.txt").read_text()
        (raw / "data" / f"{number + 1}.txt").write_text(f"RT @x: {copy.upper()}")
        image = (raw / "data" / f"{number + 1}.jpg").read_bytes()
        (raw / "data" / f"{number + 2}.jpg").write_bytes(image)
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    posts = posts_in(tmp_path / "out")
    assert len({post["split"] for post in posts.values()}) > 1
    for number in range(0, 60, 3):
        assert len({posts[str(number + step)]["split"] for step in range(3)}) == 1
    assert "60 posts share a text or an image with another (20 groups, the largest of 3)" in run.out


def test_published_splits(drf: Drf, tmp_path: Path):
    raw = make_mvsa(
        tmp_path / "raw",
        {**dict.fromkeys("12345", "positive,neutral"), "6": "positive,negative"},
    )
    (raw / "data" / "4.txt").write_bytes((raw / "data" / "1.txt").read_bytes())
    (tmp_path / "train.txt").write_text("1\n2\n\n6\n")
    (tmp_path / "test.json").write_text(json.dumps([{"id": "4", "emotion_label": 0}, {"id": 3}]))
    files = (f"train={tmp_path}/train.txt", f"test={tmp_path}/test.json")
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out", "--splits", *files)
    assert run.code == 0, run.err
    splits = {post_id: post["split"] for post_id, post in posts_in(tmp_path / "out").items()}
    assert splits == {"1": "train", "2": "train", "3": "test", "4": "test"}
    assert not (tmp_path / "out" / "dev.parquet").exists()
    assert "in no split file 1" in run.out
    assert "1 posts that the split files name are among the dropped" in run.out
    assert "1 posts of test share a text or an image with train" in run.out


@pytest.mark.parametrize(
    ("train", "dev", "told"),
    [
        (
            "1\n9\n8",
            "2",
            "train.txt: post id '9' is not in labelResultAll.txt (and 1 more like it)",
        ),
        ("1\n2", "2\n1", "dev.txt: post id '2' is in train="),
        ("1\n2", "", "dev.txt: names no post"),
        ("1\n2", '["3", {"name": 1}]', "dev.txt: entry 2: expected an id"),
        ("1\n2", '["3", ', "dev.txt: is not valid JSON"),
        ("1\n2", "[" * 100_000, "dev.txt: is not valid JSON"),
    ],
)
def test_bad_split_files_are_wrong_usage(drf: Drf, tmp_path: Path, train: str, dev: str, told: str):
    raw = make_mvsa(tmp_path / "raw", dict.fromkeys("123", "positive,neutral"))
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "dev.txt").write_text(dev)
    files = (f"train={tmp_path}/train.txt", f"dev={tmp_path}/dev.txt")
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out", "--splits", *files)
    assert run.code == 2 and told in run.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("item", ["ids.txt", "valid=ids.txt", "train=", "train=nothing.txt"])
def test_split_options_of_another_form_are_wrong_usage(drf: Drf, tmp_path: Path, item: str):
    raw = make_mvsa(tmp_path / "raw", {"1": "positive,neutral"})
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out", "--splits", item)
    assert run.code == 2 and f"--splits {item}: " in run.err


def test_the_same_import_makes_the_same_bytes_and_replaces_its_own_files(drf: Drf, tmp_path: Path):
    raw = make_mvsa(tmp_path / "raw", {str(n): "positive,neutral" for n in range(30)})
    for folder in ("one", "two", "one"):
        run = drf("import", "mvsa-single", raw, "--output", tmp_path / folder)
        assert run.code == 0, run.err
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert one.keys() == {"train.parquet", "dev.parquet", "test.parquet"}
    (tmp_path / "ids").write_text("1\n2\n")
    drf(
        "import",
        "mvsa-single",
        raw,
        "--output",
        tmp_path / "one",
        "--splits",
        f"dev={tmp_path}/ids",
    )
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["dev.parquet"]


def test_parquet_of_others_is_never_replaced(drf: Drf, tmp_path: Path):
    raw = make_mvsa(tmp_path / "raw", {"1": "positive,neutral"})
    other = make_mvsa(tmp_path / "other", {"1": "positive,neutral"})
    out = tmp_path / "out"
    drf("import", "mvsa-single", raw, "--output", out)
    run = drf("import", "mvsa-single", other, "--output", out)
    assert run.code == 2 and "is not from an earlier run of this import" in run.err
    mine = tmp_path / "mine" / "deep" / "train.parquet"
    mine.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), mine)
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "mine")
    assert run.code == 2 and "deep/train.parquet is not from" in run.err


def test_an_import_that_fails_leaves_the_earlier_files_alone(
    drf: Drf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    raw = make_mvsa(tmp_path / "raw", {str(n): "positive,neutral" for n in range(30)})
    out = tmp_path / "out"
    drf("import", "mvsa-single", raw, "--output", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_post(raw / "data", "3", 99)
    added: list[object] = []

    def full_disk(self: write_splits.SplitWriter, row: object) -> None:
        added.append(row)
        if len(added) > 10:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_splits.SplitWriter, "add", full_disk)
    run = drf("import", "mvsa-single", raw, "--output", out)
    assert run.code == 1 and "cannot be written (No space left on device)" in run.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_killed_import_left_behind_is_cleared_away(drf: Drf, tmp_path: Path):
    raw = make_mvsa(tmp_path / "raw", {str(n): "positive,neutral" for n in range(30)})
    left = tmp_path / "out" / ".importing-abc"
    left.mkdir(parents=True)
    (left / "train.parquet").write_bytes(b"half a file")
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.parquet",
        "dev.parquet",
        "test.parquet",
    }


def test_row_groups_are_bounded_in_rows_and_bytes(drf: Drf, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(write_splits, "_GROUP_ROWS", 8)
    monkeypatch.setattr(write_splits, "_GROUP_BYTES", 5_000)
    raw = make_mvsa(tmp_path / "raw", {str(n): "positive,neutral" for n in range(60)})
    (raw / "data" / "7.jpg").write_bytes(bytes(20_000))
    drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    sizes = []
    for path in (tmp_path / "out").glob("*.parquet"):
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            images = file.read_row_group(number, columns=["image"])["image"].to_pylist()
            assert len(images) <= 8
            sizes.append(sum(len(image) for image in images[:-1]))
    assert len(sizes) > 7 and max(sizes) < 5_000
    assert len(posts_in(tmp_path / "out")) == 60
