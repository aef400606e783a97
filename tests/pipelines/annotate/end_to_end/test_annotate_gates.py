"""What would empty a night as a whole is told before a model is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.annotator import Annotator, Prediction, PreparedPost
from pipelines.annotate.report.write import report_name
from pipelines.storage.files import open_store
from tests.data.corpora import image_bytes, make_posts, write_posts
from tests.support.running import Output, Run

Annotate = Callable[..., Run]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    posts = pa.table(
        {
            "post_id": [str(n) for n in range(20)],
            "text": ["a fine day"] * 20,
            "media_url": [f"https://cdn.example.org/{n}.jpg" for n in range(20)],
        }
    )
    pq.write_table(posts, tmp_path / "posts.parquet")
    return tmp_path / "posts.parquet"


@pytest.mark.parametrize("prefix", [(), ("cdn.example.org",), ("https://other.example.org",)])
def test_addresses_that_no_prefix_allows_are_told_before_anything_is_computed(
    night: Path, annotate: Annotate, output: Output, prefix: tuple[str, ...]
) -> None:
    options = [word for one in prefix for word in ("--image-uri-prefix", one)]
    run = annotate(night, "--column", "image_uri=media_url", *options)
    assert run.code == 2
    assert "media_url holds 20 addresses in the first posts, no prefix allows one" in run.err
    assert not output.root.exists()


def test_that_no_image_is_fetched_can_be_meant(
    night: Path, annotate: Annotate, output: Output
) -> None:
    columns = ("--column", "image_uri=media_url", "--image-uri-prefix", "none")
    assert annotate(night, *columns).code == 0
    assert {row["image_reason"] for row in output.annotations} == {"not_allowed"}


def test_addresses_beside_images_stop_nothing(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    posts = [
        {"post_id": "a", "text": "t", "image": image_bytes(), "image_uri": None},
        {"post_id": "b", "text": "t", "image": None, "image_uri": "https://a.example.org/b"},
    ]
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    write_posts(tmp_path / "p.parquet", posts, types={**types, "image_uri": pa.string()})
    assert annotate(tmp_path / "p.parquet").code == 0


def test_no_name_from_outside_commands_the_terminal(
    tmp_path: Path, drf: Callable[..., Run], tiny_checkpoint: Path
) -> None:
    name = "a\x1b]0;owned\x07\x9b31m\nowned.parquet"
    write_posts(tmp_path / "night" / name, make_posts(2))
    write_posts(tmp_path / "night" / "_dt=1\nowned" / "posts.parquet", make_posts(2))
    (tmp_path / "night" / "b\x1b[2Jb\nowned.parquet").write_bytes(b"no Parquet")
    for more in (["--dry-run"], []):
        run = drf(
            *("annotate", "--input", tmp_path / "night", "--output", tmp_path / "out"),
            *("--model", tiny_checkpoint, "--no-report", *more),
        )
        assert run.code == 4
        said = run.out + run.err
        assert all(c.isprintable() or c == "\n" for c in said)
        assert "owned" in said and "\nowned" not in said


def test_a_night_that_is_mostly_recovered_is_held_back_where_a_limit_says_so(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    posts = [{"post_id": str(n), "text": "a fine day", "image": None} for n in range(20)]
    write_posts(tmp_path / "posts.parquet", posts)
    run = annotate(tmp_path / "posts.parquet", "--max-recovered-share", "0.5")
    assert run.code == 3
    assert "20 of 20 posts have a recovered image (100.0%: missing 20)" in run.err
    assert output.annotations == []
    assert annotate(tmp_path / "posts.parquet").code == 0
    assert len(output.annotations) == 20


def test_a_host_that_is_down_holds_the_night_back(
    night: Path, annotate: Annotate, output: Output
) -> None:
    pq.write_table(
        pq.read_table(night).set_column(
            2, "media_url", [[f"http://127.0.0.1:9/{n}.jpg" for n in range(20)]]
        ),
        night,
    )
    allowed = ("--column", "image_uri=media_url", "--image-uri-prefix", "http://127.0.0.1:9/")
    run = annotate(night, *allowed)
    assert run.code == 3
    assert "20 of 20 posts have no image because of its host" in run.err
    assert output.annotations == []
    page = json.loads(
        open_store(str(output.root)).read(report_name(run.manifest["run_id"], "json")) or b""
    )
    assert page["verdict"]["sentence"].startswith(
        "The night was held back: the host of too many images did not give them."
    )
    again, anyway = (step["command"] for step in page["verdict"]["next"])
    assert again.endswith("--retry fetch_failed")
    assert anyway.endswith("--max-fetch-failed-share 1")
    assert annotate(night, *allowed, "--max-fetch-failed-share", "1").code == 0


def test_what_is_odd_of_a_night_is_told_and_held_back_where_a_limit_says_so(
    tmp_path: Path, annotate: Annotate, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for night in ("dt=2026-11-18", "dt=2026-11-19"):
        posts = [{"post_id": f"{n}", "text": f"day {n}", "image": None} for n in range(60)]
        write_posts(tmp_path / night / "posts.parquet", posts)
    told = annotate(tmp_path / "dt=2026-11-18").manifest
    assert told["exit_code"] == 0
    [recovered] = [line for line in told["warnings"] if "recovered" in line]
    assert recovered.startswith("dt=2026-11-18: 60 of 60 posts have a recovered image (100.0%")
    # The next night's posts are all of one label, and of low quality.
    predict = Annotator.predict

    def odd(self: Annotator, posts: Sequence[PreparedPost]) -> list[Prediction]:
        rows = predict(self, posts)
        text = dataclasses.replace(rows[0].text, state="low_quality", quality=0.01)
        return [dataclasses.replace(row, label="positive", text=text) for row in rows]

    monkeypatch.setattr(Annotator, "predict", odd)
    next_night = tmp_path / "dt=2026-11-19"
    for option, what in (
        ("--max-label-shift", "of the labels moved against the last nights (negative 0%, was"),
        ("--max-low-quality-share", "60 of 60 posts have a text of low quality (100.0%)"),
    ):
        held = annotate(next_night, option, "0.4")
        assert held.code == 3 and what in held.err and option in held.err
        report = json.loads(
            open_store(str(output.root)).read(report_name(held.manifest["run_id"], "json")) or b""
        )
        [said] = report["held_back"]
        assert said["option"] == option and said["share"] > 0.4
        why = "its labels moved against" if "label" in option else "of low quality"
        assert why in report["verdict"]["sentence"]
        shown = open_store(str(output.root)).read(report_name(held.manifest["run_id"])) or b""
        assert all(one in shown.decode() for one in report["verdict"]["findings"][:6])
        assert len(output.annotations) == 60
    told = annotate(next_night).manifest
    assert told["exit_code"] == 0
    assert len([line for line in told["warnings"] if line.startswith("dt=2026-11-19: ")]) == 3
    assert len(output.annotations) == 120


def test_a_corpus_without_images_is_not_told_that_it_has_none(
    tmp_path: Path, annotate: Annotate
) -> None:
    posts = [{"post_id": f"{n}", "text": f"day {n}", "image": None} for n in range(30)]
    write_posts(tmp_path / "posts.parquet", posts)
    run = annotate(tmp_path / "posts.parquet", "--column", "image=")
    assert not [line for line in run.manifest["warnings"] if "recovered" in line]
