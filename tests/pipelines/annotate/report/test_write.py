from __future__ import annotations

import html
import html.parser
import json
import os
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines.annotate.publish.partition_tasks import partition_tasks
from pipelines.annotate.report import write
from pipelines.annotate.report.model_facts import ModelFacts
from pipelines.annotate.report.pages.render import render_report, shown
from pipelines.annotate.run_steps import RunStart, close_partition, close_run
from pipelines.annotate.summary import format_summary
from schemas.manifest import Manifest
from tests.data.corpora import damage_footer, make_posts, write_nights, write_posts
from tests.support.nights.stand_in import annotate, plan_run

NIGHT = "dt=2026-11-17/part-00000.parquet"
HOSTILE = (
    "</title></style><script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
    "\u202eevil\x00" + "x" * 1_000_000
)


def run(
    output: Path,
    source: Path,
    run_id: str = "run-1",
    facts: ModelFacts | None = None,
    report: bool = True,
    **changes: Any,
) -> Manifest:
    """A whole run of the stand-in, to its end."""
    plan = plan_run(output, source, run_id=run_id, **changes)
    annotate(plan)
    tasks = partition_tasks(plan)
    failed = [file.source_file for file in plan.failed_files]
    closed = [close_partition(plan.options, tasks[name], (), failed) for name in plan.publish]
    words = ["drf", "annotate", "--input", str(source), "--output", str(output)]
    start = RunStart(
        datetime.now(timezone.utc),
        options={"command": words},
        facts=facts or ModelFacts(),
        report=report,
    )
    return close_run(plan, closed, start)


def report_of(output: Path, run_id: str = "run-1") -> dict[str, Any]:
    return json.loads((output / "_runs" / run_id / "report.json").read_text())


def page_of(output: Path, run_id: str = "run-1") -> str:
    return (output / "_runs" / run_id / "report.html").read_text()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A night of twenty posts in two files, with two texts missing and one post without id."""
    write_nights(tmp_path / "in", ["2026-11-17"])
    posts = make_posts(10)
    posts[1]["text"] = posts[2]["text"] = None
    posts[3]["post_id"] = None
    write_posts(tmp_path / "in" / NIGHT, posts)
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Tags(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or name == "style" for name, _ in attributes)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_run_leaves_a_page_and_its_numbers(corpus: Path, output: Path) -> None:
    manifest = run(output, corpus)
    assert manifest.report == f"{output}/_runs/run-1/report.html"
    assert manifest.report in "\n".join(format_summary(manifest, str(output)))
    page = Tags(page_of(output))
    assert "19 posts of dt=2026-11-17 are published" in page.text
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert "default-src 'none'" in html.unescape(page_of(output))
    assert len(page_of(output)) < 300_000
    report = report_of(output)
    # All qualities of the stand-in are .50, which chance does not bring about.
    assert report["verdict"]["word"] == "Worth a look"
    assert "less ordinary" in report["verdict"]["findings"][0]
    assert report["night"]["labels"] == manifest.totals.labels
    assert list(report["run"]["phases"]) == ["listing and planning", "publishing"]


def test_a_run_that_shall_leave_no_page_leaves_none(corpus: Path, output: Path) -> None:
    assert run(output, corpus, report=False).report is None
    assert [path.name for path in (output / "_runs").rglob("*") if path.is_file()] == [
        "manifest.json"
    ]


def test_no_text_of_a_post_is_in_it(corpus: Path, output: Path) -> None:
    posts = make_posts(10)
    for post in posts:
        post["text"] = f"secret {post['text']}"
    write_posts(corpus / NIGHT, posts)
    run(output, corpus)
    assert "secret" not in page_of(output) + json.dumps(report_of(output))


def test_duckdb_recounts_every_number(corpus: Path, output: Path) -> None:
    run(output, corpus)
    report = report_of(output)
    sql, night = report["sql"], report["night"]
    connection = duckdb.connect()
    connection.execute(sql["posts"])
    lost = connection.execute(sql["dead_letters"]).fetchall()
    assert dict(lost) == night["dead_letter_reasons"] == {"no_post_id": 1}

    def counted(figure: str) -> dict[Any, int]:
        return {row[0]: row[1] for row in connection.execute(sql[figure]).fetchall()}

    assert counted("label") == night["labels"]
    for m in ("text", "image"):
        assert counted(f"{m}_state") == night["states"][m]
        assert counted(f"{m}_reason") == night["reasons"][m]
        bins = counted(f"{m}_quality")
        assert [bins.get(bin, 0) for bin in range(20)] == night["quality"][m]
    (mean,) = connection.execute(sql["confidence"]).fetchone() or (None,)
    assert mean == pytest.approx(report["trust"]["expected"])
    expected = {(row["by"], row["value"]): row["expected"] for row in report["trust"]["by"]}
    for by, value, _, share in connection.execute(sql["trust"]).fetchall():
        assert share == pytest.approx(expected[by, value])
    for told in report["evidence"]:
        names = ("label", "posts", "text", "image", "by_text", "opposed")
        found = {row[0]: row for row in connection.execute(sql["evidence"]).fetchall()}
        assert [told[name] for name in names[2:]] == pytest.approx(found[told["label"]][2:])
    assert sum(told["posts"] for told in report["evidence"]) == night["annotations"]
    assert "of the labels rest on the" in page_of(output)


def test_a_night_is_compared_with_the_one_before(tmp_path: Path, output: Path) -> None:
    for day in ("2026-11-17", "2026-11-18"):
        write_nights(tmp_path / day, [day])
        run(output, tmp_path / day, run_id=day)
    report = report_of(output, "2026-11-18")
    assert report["before"]["name"] == "dt=2026-11-17"
    assert all(change["difference"] is not None for change in report["changes"])
    assert report["explained_by"] == []
    write_nights(tmp_path / "new", ["2026-11-19"])
    run(output, tmp_path / "new", run_id="new", model_revision="revision-2")
    explained = report_of(output, "new")["explained_by"]
    assert [one["what"] for one in explained] == ["model"]


def test_a_model_adapted_to_the_night_is_said_to_know_it(corpus: Path, output: Path) -> None:
    bins = {"before": [9, *[1] * 11], "after": [1, *[1] * 19], "unseen": [2, *[1] * 18]}
    adapted = {"posts": 20, "from": "default", "labels_changed": 0.1, "qualities": {"text": bins}}
    run(output, corpus)
    assert 'class="hatch"' not in page_of(output) and "was adapted to" not in page_of(output)
    run(output, corpus, "run-2", ModelFacts(reference_files=(NIGHT,), adapted=adapted))
    assert report_of(output, "run-2")["night"]["in_reference"]
    page = page_of(output, "run-2")
    assert 'class="hatch"' in page and "(in the reference)" in page
    shown = Tags(page).text
    assert "The model was adapted to 20 posts" in shown
    assert "texts2045.0 %5.0 %10.0 %" in shown


def test_without_dates_a_run_is_a_night(tmp_path: Path, output: Path) -> None:
    write_posts(tmp_path / "in" / "a.parquet", make_posts(6))
    run(output, tmp_path / "in", run_id="first")
    write_posts(tmp_path / "in" / "b.parquet", make_posts(4, 100))
    run(output, tmp_path / "in", run_id="second")
    report = report_of(output, "second")
    assert (report["night"]["name"], report["night"]["annotations"]) == ("second", 4)
    assert report["before"]["name"] == "first"
    connection = duckdb.connect()
    connection.execute(report["sql"]["posts"])
    assert connection.execute("SELECT count(*) FROM posts").fetchone() == (4,)


def test_a_held_back_night_shows_its_dead_letters_and_the_way_on(
    corpus: Path, output: Path
) -> None:
    manifest = run(output, corpus, max_dead_letter_share=0.0)
    assert manifest.exit_code == 3
    report = report_of(output)
    assert report["verdict"]["word"] == "Held back"
    (held,) = report["held_back"]
    assert held["reasons"] == [{"name": "no_post_id", "posts": 1, "share": 1 / 20}]
    assert [letter["source_row"] for letter in held["letters"]] == [3]
    found = (
        duckdb.connect().execute(f"SELECT count(*) FROM read_parquet('{held['where']}')").fetchone()
    )
    assert found == (1,)
    (step,) = report["verdict"]["next"]
    assert step["command"].endswith(f"--output {output} --max-dead-letter-share 0.06")
    assert "no_post_id" in Tags(page_of(output)).text.replace(" ", "_")
    text = "\n".join(format_summary(manifest, str(output)))
    assert f"{output}/annotations" not in text and "_staging/parts" in text


def test_of_many_staged_parts_the_statements_count_those_of_the_night_alone(
    tmp_path: Path, output: Path
) -> None:
    files = write_nights(tmp_path / "in", ["2026-11-17"], files_per_night=14, posts_per_file=2)
    posts = make_posts(2)
    posts[0]["post_id"] = None
    write_posts(files[0], posts)
    run(output, tmp_path / "in", max_dead_letter_share=0.0)
    # What was staged of files that are others now lies beside it for some days.
    for file in files:
        os.utime(file, (1, 1))
    run(output, tmp_path / "in", run_id="run-2", max_dead_letter_share=0.0)
    report = report_of(output, "run-2")
    connection = duckdb.connect()
    connection.execute(report["sql"]["posts"])
    assert connection.execute("SELECT count(*) FROM posts").fetchone() == (27,)
    assert connection.execute(report["sql"]["dead_letters"]).fetchall() == [("no_post_id", 1)]


def test_a_failed_file_is_named_with_what_stays_of_it(corpus: Path, output: Path) -> None:
    run(output, corpus)
    damage_footer(corpus / NIGHT)
    run(output, corpus, run_id="run-2")
    report = report_of(output, "run-2")
    assert report["verdict"]["word"] == "Failed"
    (failed,) = report["failed_files"]
    assert (failed["source_file"], failed["kept_rows"]) == (NIGHT, 9)
    assert "corrupt Parquet footer" in failed["error"]
    assert "corrupt Parquet footer" in Tags(page_of(output, "run-2")).text


def test_a_report_that_cannot_be_written_changes_no_exit_code(
    corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no space on the page")

    monkeypatch.setattr(write, "save_report", fail)
    manifest = run(output, corpus)
    assert manifest.exit_code == 0 and manifest.report is None
    assert any("no space on the page" in warning for warning in manifest.warnings)


@pytest.fixture
def hostile_page(corpus: Path, output: Path) -> str:
    """A page on which whatever comes from outside is hostile."""
    run(output, corpus)
    report = report_of(output)
    night = report["night"]
    night["labels"] = {HOSTILE: 19}
    night["name"] = report["run"]["model_id"] = HOSTILE
    report["verdict"]["sentence"] = report["verdict"]["next"][0]["command"] = HOSTILE
    report["failed_files"] = [{"source_file": HOSTILE, "error": HOSTILE, "kept_rows": 0}]
    report["groups"] = {
        HOSTILE: [
            {
                **dict.fromkeys(("text", "image", "confidence"), 0.5),
                "value": HOSTILE,
                "posts": 30,
                "by": "text",
                "surprise": 9.0,
            }
        ]
    }
    for change in report["changes"]:
        if change["group"] == "label":
            change["name"] = HOSTILE
    report["why"]["text_reason"] = [{"name": HOSTILE, "posts": 1, "share": 0.1}]
    report["trust"]["by"][0]["value"] = HOSTILE
    report["likeness"]["text"]["nights"][0]["name"] = HOSTILE
    for name in report["sql"]:
        report["sql"][name] += HOSTILE
    report["evidence"][0]["label"] = HOSTILE
    report["run"]["fetched"] = {HOSTILE: {HOSTILE: 1}}
    return render_report(report)


def test_hostile_names_stay_text(hostile_page: str, output: Path) -> None:
    tags = Tags(hostile_page)
    assert not {"script", "img"} & set(tags.tags)
    assert tags.tags.count("style") == page_of(output).count("<style>") == 1
    assert "\x00" not in hostile_page and "\u202e" not in hostile_page
    assert len(hostile_page) < 300_000


def test_hostile_names_stay_text_in_a_browser(hostile_page: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a Chromium")
    path = tmp_path / "page.html"
    path.write_text(hostile_page)
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    seen = Tags(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)
    assert seen.tags.count("section") >= 5
    assert not {"script", "img"} & set(seen.tags)
    assert not seen.text.lstrip().startswith("owned")


def test_what_cannot_be_seen_is_shown() -> None:
    assert shown("a\u202eb\x00") == "<bdi>a\\u{202e}b\\u{0}</bdi>"
    # A family of emoji is held together by joiners, which are no harm.
    family = "\N{MAN}\u200d\N{GIRL}"
    assert shown(family) == f"<bdi>{family}</bdi>"
    assert shown("\ud800") == "<bdi>\\u{d800}</bdi>"
