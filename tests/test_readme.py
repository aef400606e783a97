"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, "" for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [body for name, body in found if name == language]


def run(program: list[str], folder: Path) -> str:
    result = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first command was run, but for its installing."""
    folder = tmp_path_factory.mktemp("readme")
    [first] = [block for block in blocks("bash") if "drf sample" in block]
    for command in first.strip().split(" && ")[2:]:
        name, *arguments = command.split()
        assert name == ".venv/bin/drf"
        run([str(Path(sys.executable).with_name("drf")), *arguments], folder)
    return folder


def test_the_first_command_annotates_the_sample(annotated: Path) -> None:
    assert list(annotated.glob("annotated/annotations/dt=*/_SUCCESS"))


def test_the_query_reads_the_annotations(annotated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(annotated)
    [query] = [block for block in blocks("python") if "duckdb" in block]
    sql = re.search(r'"""(.*?)"""', query, re.DOTALL)
    assert sql
    rows = duckdb.sql(sql[1]).fetchall()
    assert {str(row[0]) for row in rows} == {p.name[3:] for p in annotated.glob("posts/dt=*")}


def test_the_rows_shown_are_those_that_come_out(annotated: Path) -> None:
    [example] = [block for block in blocks("python") if "import pandas" in block]
    (annotated / "show.py").write_text(example)
    printed = run([sys.executable, "show.py"], annotated)
    [shown] = [block for block in blocks("") if block.lstrip().startswith("label  confidence")]
    for text in (printed, shown):
        assert "n1-17" in text
    labels_and_states = [
        [word for word in text.split() if not re.fullmatch(r"[0-9.]+", word)]
        for text in (printed, shown)
    ]
    assert labels_and_states[0] == labels_and_states[1]


def test_the_beam_example_runs(tmp_path: Path) -> None:
    [example] = [block for block in blocks("python") if "AnnotatePosts" in block]
    (tmp_path / "example.py").write_text(example)
    said = run([sys.executable, "example.py"], tmp_path)
    assert re.search(r"^1 (negative|neutral|positive) recovered$", said, re.MULTILINE)
    assert "2 no_usable_modality" in said


def test_every_option_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", " ".join(blocks("bash"))))
    named |= set(re.findall(r"`(--[a-z][a-z_-]+)", README))
    help_texts = ""
    for command in ("annotate", "train", "import", "evaluate"):
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from pipelines.cli import main; main(sys.argv[1:])",
                command,
                "--help",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        help_texts += result.stdout
    beam_options = {"--runner", "--resource_hint", "--sdk_worker_parallelism"}
    assert {name for name in named if name not in help_texts} <= beam_options
