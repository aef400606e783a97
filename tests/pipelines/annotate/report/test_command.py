from __future__ import annotations

import base64
import io
import re
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.annotate.output.part_reader import StoredFile
from pipelines.annotate.report.gallery import thumbnail
from pipelines.cli import main
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.pipelines.annotate.report.test_write import NIGHT, page_of, report_of, run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two nights, a run each; the text of the second one's first post is hostile."""
    for day in ("2026-11-17", "2026-11-18"):
        posts = make_posts(10)
        posts[0]["text"] = "<script>alert(1)</script>\u202egnp.exe"
        posts[1]["text"] = None
        write_posts(tmp_path / day / f"dt={day}" / "part-00000.parquet", posts)
        run(tmp_path / "out", tmp_path / day, run_id=day)
    return tmp_path / "out"


def test_runs_are_listed_with_what_became_of_them(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["2026-11-17", "Published"],
        ["2026-11-18", "Published"],
    ]
    page = (output / "_runs" / "index.html").read_text()
    assert page.index("2026-11-18/report.html") < page.index("2026-11-17/report.html")


def test_a_line_that_was_lost_does_not_lose_the_run(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = output / "_runs" / "index.jsonl"
    first, second = index.read_text().splitlines()
    index.write_text(first[:50] + "\n" + second + "\n")
    assert main(["runs", str(output)]) == 0
    assert "(no report)" in capsys.readouterr().out.splitlines()[0]
    assert main(["report", str(output), "--run", "2026-11-17"]) == 0


def test_a_run_is_compared_with_any_night(output: Path, tmp_path: Path) -> None:
    write_nights(tmp_path / "third", ["2026-11-19"])
    run(output, tmp_path / "third", run_id="third")
    assert report_of(output, "third")["before"]["name"] == "dt=2026-11-18"
    assert main(["report", str(output), "--run", "third", "--against", "2026-11-17"]) == 0
    assert report_of(output, "third")["before"]["name"] == "dt=2026-11-17"


def test_a_held_back_night_that_is_compared_keeps_what_is_staged(
    output: Path, tmp_path: Path
) -> None:
    posts = make_posts(10)
    posts[3]["post_id"] = None
    write_posts(tmp_path / "third" / "dt=2026-11-19" / "a.parquet", posts)
    run(output, tmp_path / "third", run_id="third", max_dead_letter_share=0.0)
    before = report_of(output, "third")
    assert main(["report", str(output), "--run", "third", "--against", "2026-11-17"]) == 0
    after = report_of(output, "third")
    assert after["before"]["name"] == "dt=2026-11-17"
    assert (after["night"]["rows"], after["night"]["staged"]) == (10, True)
    alike = ("night", "held_back", "places", "sql", "groups", "why", "evidence")
    assert {name: after[name] for name in alike} == {name: before[name] for name in alike}


def test_mistakes_are_told_in_one_line(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["runs", str(output / "nowhere")],
        ["report", str(output), "--run", "nights"],
        ["report", str(output), "--against", "1999-01-01"],
        ["show", str(output), "nobody"],
    ):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_gallery_shows_texts_as_text_and_nobody_else_may_read_it(output: Path) -> None:
    assert main(["report", str(output), "--gallery", "3"]) == 0
    path = output / "_runs" / "2026-11-18" / "gallery.html"
    assert path.stat().st_mode & 0o777 == 0o600
    page = path.read_text()
    assert "<script" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}gnp.exe" in page
    assert page.count("data:image/webp;base64,") >= 3
    # Asked for by name only: the report itself holds nothing of it.
    assert "alert(1)" not in page_of(output, "2026-11-18")


def test_the_gallery_shows_whose_label_another_model_changed(output: Path, tmp_path: Path) -> None:
    """The stand-in says positive of all posts; the other output says so of all but one."""
    other = shutil.copytree(output, tmp_path / "other")
    part, *_ = (other / "annotations" / "dt=2026-11-18").glob("*.parquet")
    rows = pq.read_table(part)
    labels = rows["label"].to_pylist()
    wanted = rows["post_id"][0].as_py()
    labels[0] = "sorrowful"
    place = rows.schema.get_field_index("label")
    pq.write_table(rows.set_column(place, "label", pa.array(labels)), part)
    given = ["report", str(output), "--gallery", "3", "--labels-of"]
    assert main([*given, str(other)]) == 0
    page = (output / "_runs" / "2026-11-18" / "gallery.html").read_text()
    block = re.search(r"Label changed</bdi></h2>.*?</section>", page, re.DOTALL)
    assert block and block.group().count('<li class="post">') == 1
    assert wanted in block.group() and "was <bdi>sorrowful</bdi>" in block.group()
    assert main([*given, str(tmp_path)]) == 2


def test_pictures_are_made_anew() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    data = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(data, "JPEG", exif=exif)
    uri = thumbnail(data.getvalue() + b"<script>")
    assert uri and uri.startswith("data:image/webp;base64,")
    small = base64.b64decode(uri.partition(",")[2])
    picture = Image.open(io.BytesIO(small))
    assert picture.size == (96, 72) and not picture.getexif()
    assert b"script" not in small and b"home" not in small
    assert thumbnail(b"<html>no image</html>") is None


def test_a_post_is_shown_with_its_reasons_and_its_image(
    output: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, threads = StoredFile.read, set()

    def watched(self: StoredFile, size: int | None = -1) -> bytes:
        threads.add(threading.current_thread())
        return read(self, size)

    monkeypatch.setattr(StoredFile, "read", watched)
    posts = make_posts(10)
    target = tmp_path / "post.img"
    assert main(["show", str(output), str(posts[1]["post_id"]), "--image", str(target)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"text +recovered from the image, as it is missing", shown)
    assert re.search(r"image +present \(quality 0.50", shown)
    assert f"{NIGHT}, row 1" in shown
    assert target.read_bytes() == posts[1]["image"]
    # A thread of Arrow's that holds a Python file when the interpreter ends aborts the command.
    assert threads == {threading.current_thread()}
