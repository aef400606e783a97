"""`drf import mvsa-single|mvsa-multiple`: whose label a post has, and what its bytes mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.importing.mvsa import majority, merge_labels
from pipelines.importing.text_encoding import decode_text
from schemas.posts import PostColumns, check_posts_schema
from tests.data.corpora import image_bytes
from tests.data.raw_corpora import make_mvsa
from tests.support.imported import posts_in
from tests.support.running import Run

Drf = Callable[..., Run]


def test_two_modalities_labels_become_one(drf: Drf, tmp_path: Path):
    raw = make_mvsa(
        tmp_path / "raw",
        {
            "1": "positive,positive",
            "2": "neutral,negative",
            "3": "positive,neutral",
            "4": "positive,negative",
            "5": "negative,positive",
            "6": "neutral,neutral",
        },
    )
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    labels = {post_id: post["label"] for post_id, post in posts_in(tmp_path / "out").items()}
    assert labels == {"1": "positive", "2": "negative", "3": "positive", "6": "neutral"}
    assert "dropped  2" in run.out and "text positive, image negative" in run.out


def test_three_annotators_decide_by_majority_and_a_tie_drops_the_post(drf: Drf, tmp_path: Path):
    raw = make_mvsa(
        tmp_path / "raw",
        {
            "1": "positive,neutral\tpositive,neutral\tnegative,positive",
            "2": "positive,neutral\tneutral,neutral\tnegative,neutral",
            "3": "neutral,positive\tneutral,neutral\tneutral,negative",
            "4": "positive,negative\tpositive,negative\tneutral,neutral",
            "5": "negative,negative\tneutral,negative\tnegative,neutral",
        },
    )
    run = drf("import", "mvsa-multiple", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    labels = {post_id: post["label"] for post_id, post in posts_in(tmp_path / "out").items()}
    assert labels == {"1": "positive", "5": "negative"}
    assert "annotators without a majority 2" in run.out
    assert "image negative or the other way round 1" in run.out


def test_the_rules_of_labels():
    assert majority(["positive", "positive", "neutral"]) == "positive"
    assert majority(["positive", "negative", "neutral"]) is None
    assert majority(["neutral"]) == "neutral"
    assert merge_labels("neutral", "negative") == "negative"
    assert merge_labels("negative", "neutral") == "negative"
    assert merge_labels("negative", "positive") is None


@pytest.mark.parametrize(
    ("raw", "text", "encoding"),
    [
        ("plain", "plain", "utf-8"),
        ("\ufeffhappy 🎉", "happy 🎉", "utf-8"),
        ("you’re — fine…".encode("gbk"), "you’re — fine…", "gb18030"),
        ("С днем святого".encode("gbk"), "С днем святого", "gb18030"),
        ("什么都好".encode("gbk") + b"\xff", "什么都好\ufffd", "gb18030"),
        ("happy 🎉🎉🎉".encode() + b"\xf0\x9f", "happy 🎉🎉🎉\ufffd", "utf-8"),
        ("don’t, naïve café".encode("cp1252"), "don’t, naïve café", "cp1252"),
        (b"caf\xe9 \x81", "café \x81", "latin-1"),
    ],
)
def test_no_bytes_are_dropped_for_their_encoding(raw: bytes | str, text: str, encoding: str):
    given = raw if isinstance(raw, bytes) else raw.encode()
    assert decode_text(given) == (text, encoding)


def test_texts_that_are_no_utf8_keep_their_post_and_are_counted(drf: Drf, tmp_path: Path):
    texts = {"2": "you’re recommending this? htt… \n".encode("gbk")}
    raw = make_mvsa(tmp_path / "raw", dict.fromkeys("123", "positive,positive"), texts)
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert posts_in(tmp_path / "out")["2"]["text"] == "you’re recommending this? htt…"
    assert "texts    read as gb18030 1" in run.out


def test_a_missing_file_is_null_and_a_post_without_both_is_dropped(drf: Drf, tmp_path: Path):
    raw = make_mvsa(
        tmp_path / "raw", dict.fromkeys("1234", "neutral,neutral"), {"3": b" \n", "4": b" \n"}
    )
    (raw / "data" / "1.txt").unlink()
    (raw / "data" / "2.jpg").unlink()
    (raw / "data" / "4.jpg").write_bytes(b"")
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    posts = posts_in(tmp_path / "out")
    assert posts.keys() == {"1", "2", "3"}
    assert posts["1"]["text"] is None and posts["1"]["image"] is not None
    assert posts["2"]["text"] is not None and posts["2"]["image"] is None
    assert posts["3"]["text"] is None
    assert "dropped  1  (neither text nor image 1)" in run.out
    assert "texts    missing 2" in run.out
    assert "images   file missing or empty 1" in run.out


def test_the_image_is_the_file_byte_for_byte_also_a_broken_one(drf: Drf, tmp_path: Path):
    raw = make_mvsa(tmp_path / "raw", dict.fromkeys("12", "neutral,neutral"))
    (raw / "data" / "2.jpg").write_bytes(image_bytes(7)[:100])
    drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    for post_id, post in posts_in(tmp_path / "out").items():
        assert post["image"] == (raw / "data" / f"{post_id}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("9\tpositive,happy", "line 3: unknown label 'happy'; known are negative, neutral, pos"),
        ("9\tpositive", "line 3: found 'positive', expected TEXT_LABEL,IMAGE_LABEL"),
        ("9", "line 3: found 0 pairs of labels, expected 1"),
        ("1\tpositive,positive", "line 3: post id '1' was labelled before, at "),
        (
            "9\tneutral,neutral\tneutral,neutral\tneutral,neutral",
            "found 3 pairs of labels, expected 1; is this the corpus of `drf import mvsa-multiple`",
        ),
    ],
)
def test_a_line_that_does_not_fit_is_named(drf: Drf, tmp_path: Path, line: str, told: str):
    raw = make_mvsa(tmp_path / "raw", {"1": "positive,positive"})
    with (raw / "labelResultAll.txt").open("a") as file:
        file.write(line + "\r\n")
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 1 and told in run.err and "labelResultAll.txt" in run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_mvsa_is_wrong_usage(drf: Drf, tmp_path: Path):
    run = drf("import", "mvsa-single", tmp_path, "--output", tmp_path / "out")
    assert run.code == 2 and "labelResultAll.txt: no such file" in run.err
    (tmp_path / "labelResultAll.txt").write_text("ID\ttext,image\n1\tneutral,neutral\n")
    run = drf("import", "mvsa-single", tmp_path, "--output", tmp_path / "out")
    assert run.code == 2 and "has no folder data" in run.err


def test_a_corpus_of_which_nothing_is_left_says_why(drf: Drf, tmp_path: Path):
    raw = make_mvsa(tmp_path / "raw", {"1": "positive,negative", "2": "neutral,neutral"})
    for path in (raw / "data").glob("2.*"):
        path.unlink()
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 2 and "raw: no post is left (neither text nor image 1, text pos" in run.err


def test_the_real_sample_comes_out_whole(drf: Drf, tmp_path: Path, shared: Path):
    raw = shared / "corpora" / "mvsa_raw_sample"
    run = drf("import", "mvsa-single", raw, "--output", tmp_path / "out")
    assert run.code == 0, run.err
    posts = posts_in(tmp_path / "out")
    assert len(posts) == 35
    assert posts["168"]["text"].count("you’re recommending") == 1
    assert posts["261"]["text"].startswith("RT @KiM_96I: С днем святого валентина всех")
    assert posts["399"]["text"].endswith("htt…")
    assert not any("\ufffd" in post["text"] for post in posts.values())
    for path in (tmp_path / "out").glob("*.parquet"):
        check_posts_schema(pq.read_schema(path), PostColumns(), ("split",), path.name)
