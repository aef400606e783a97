"""What the README and the pages it leads to show works as it stands there."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import duckdb
import pytest

from pipelines.cli import _COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        *("README.md", "pipelines/annotate/README.md", "pipelines/train/README.md"),
        *("schemas/README.md", "pipelines/README.md", "deploy/README.md"),
    )
}
README = PAGES["README.md"]


def blocks(language: str, page: str = README) -> list[str]:
    """The fenced blocks of one language, "" for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [body for name, body in found if name == language]


def run(program: list[str], folder: Path) -> str:
    result = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the first command, run in an empty folder but for its installing."""
    folder = tmp_path_factory.mktemp("readme")
    first, second = blocks("bash")[0].splitlines()
    *_, (program, *arguments) = [step.split() for step in first.split(" && ")]
    assert program == ".venv/bin/drf" and (ROOT / second).exists()
    run([str(Path(sys.executable).with_name("drf")), *arguments], folder)
    return folder


def test_the_first_command_annotates_the_sample(annotated: Path) -> None:
    assert list(annotated.glob("sample/annotated/annotations/dt=*/_SUCCESS"))


def test_the_query_reads_the_annotations(annotated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(annotated)
    [query] = [block for block in blocks("python") if "duckdb" in block]
    sql = re.search(r'"""(.*?)"""', query, re.DOTALL)
    assert sql
    rows = duckdb.connect().sql(sql[1]).fetchall()
    assert {str(row[0]) for row in rows} == {
        p.name[3:] for p in annotated.glob("sample/posts/dt=*")
    }


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
    page = PAGES["pipelines/annotate/README.md"]
    [example] = [block for block in blocks("python", page) if "AnnotatePosts" in block]
    (tmp_path / "example.py").write_text(example)
    said = run([sys.executable, "example.py"], tmp_path)
    assert re.search(r"^1 (negative|neutral|positive) recovered$", said, re.MULTILINE)
    assert "2 no_usable_modality" in said


def test_every_option_that_a_page_names_exists() -> None:
    pages = [page for name, page in PAGES.items() if not name.startswith(("deploy", "schemas"))]
    bash = "".join(block for page in pages for block in blocks("bash", page))
    commands = [line for line in bash.replace("\\\n", " ").splitlines() if line[:4] == "drf "]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", " ".join(commands)))
    named |= {option for page in pages for option in re.findall(r"`(--[a-z][a-z_-]+)", page)}
    parsers = {name: option_names(name) for name in _COMMANDS}
    beam_options = {"--runner", "--resource_hint", "--sdk_worker_parallelism"}
    assert named - set().union(*parsers.values()) <= beam_options | {"--quick", "--replace"}
    for command in commands:
        name, *words = command.partition("#")[0].split()[1:]
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= parsers[name] | beam_options, command


def option_names(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    module = import_module(_COMMANDS[command].module)
    getattr(module, f"add_{command}_arguments")(parser)
    return {*parser._option_string_actions}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
