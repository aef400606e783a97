"""The nightly run without Airflow: a script for cron, and systemd units around it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.corpora import write_nights
from tests.support.running import Output

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, str]:
    """For drf-night; what would sleep moves late posts to their place."""
    (tmp_path / "bin").mkdir()
    drf = script(
        tmp_path / "bin" / "drf",
        f'PYTHONPATH={ROOT} exec {sys.executable} -m pipelines.cli "$@"',
    )
    script(
        tmp_path / "bin" / "sleep",
        f"echo $1 >> {tmp_path}/slept",
        f"mv {tmp_path}/late {tmp_path}/posts",
    )
    return {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "DRF": str(drf),
        "DRF_INPUT": f"{tmp_path}/posts/dt={{night}}",
        "DRF_OUTPUT": f"{tmp_path}/annotated",
        "DRF_OPTIONS": f"--model {tiny_checkpoint} --device cpu --threads 1",
    }


def drf_night(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [UNITS / "drf-night", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_night_is_waited_for_and_annotated(environment: dict[str, str], tmp_path: Path) -> None:
    write_nights(tmp_path / "late", ("2026-11-17",), files_per_night=1)
    ran = drf_night({**environment, "DRF_DEADLINE": "18:00 1000000 days"}, "2026-11-17")
    assert ran.returncode == 0, ran.stderr
    assert "the posts of 2026-11-17 are not there yet" in ran.stderr
    assert (tmp_path / "slept").read_text() == "600\n"
    assert (tmp_path / "annotated/_runs/night.2026-11-17/manifest.json").exists()
    assert len(Output(tmp_path / "annotated").annotations) == 10


def test_a_night_may_lie_in_folders_of_any_pattern(
    environment: dict[str, str], tmp_path: Path
) -> None:
    [path] = write_nights(tmp_path / "late", ("2026-11-17",), files_per_night=1)
    place = tmp_path / "2026" / "11" / "17"
    place.mkdir(parents=True)
    path.rename(place / path.name)
    options = f"{environment['DRF_OPTIONS']} --partition dt={{:%Y/%m/%d}}"
    folders = f"{tmp_path}/{{night:%Y/%m}}/{{night:%d}}"
    ran = drf_night({**environment, "DRF_INPUT": folders, "DRF_OPTIONS": options}, "2026-11-17")
    assert ran.returncode == 0, ran.stderr
    assert Output(tmp_path / "annotated").succeeded() == ["dt=2026-11-17"]


@pytest.mark.parametrize("place", ["none", "none/*.parquet", "empty"])
def test_a_night_without_posts_fails_at_the_deadline(
    place: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    asked = {**environment, "DRF_INPUT": f"{tmp_path}/{place}"}
    ran = drf_night({**asked, "DRF_DEADLINE": "01:00"}, "2020-11-17")
    assert ran.returncode == 2
    assert f"--input {tmp_path}/{place}: " in ran.stderr.splitlines()[-1]
    assert not (tmp_path / "slept").exists()
    # Before it, the same line is worth waiting for.
    (tmp_path / "late").mkdir()
    script(tmp_path / "bin" / "sleep", "kill $PPID")
    ran = drf_night({**asked, "DRF_DEADLINE": "18:00 1000000 days"}, "2020-11-17")
    assert "are not there yet" in ran.stderr


def test_the_settings_that_the_page_shows_are_read_by_the_shell_of_cron(tmp_path: Path) -> None:
    page = (ROOT / "deploy/README.md").read_text()
    [settings] = re.findall(r"^```env\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    [line] = re.findall(r"^0 3 \* \* \*  (.*) > /dev/null$", page, re.MULTILINE)
    told = script(tmp_path / "drf", 'printf "%s|" "$@"')
    (tmp_path / "annotate.env").write_text(re.sub("^DRF=.*", f"DRF={told}", settings))
    for place, here in (
        ("/etc/drf/annotate.env", tmp_path / "annotate.env"),
        ("/usr/local/lib/drf/drf-night", f"{UNITS / 'drf-night'} 2026-11-17"),
    ):
        line = line.replace(place, str(here))
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    said = ran.stdout.split("|")
    assert said[said.index("--input") + 1] == "/srv/exports/2026/11/17"
    assert said[said.index("--partition") + 1] == "dt={:%Y/%m/%d}"
    assert said[said.index("--keep") + 1] == "lang,created_at"


def test_wrong_usage_is_not_waited_for(environment: dict[str, str], tmp_path: Path) -> None:
    asked = {**environment, "DRF_OPTIONS": "--colum text=body"}
    ran = drf_night({**asked, "DRF_DEADLINE": "18:00 1000000 days"}, "2026-11-17")
    assert ran.returncode == 2
    assert "unknown option --colum" in ran.stderr.splitlines()[-1]
    assert not (tmp_path / "slept").exists()


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which is not on this machine")
    for unit in UNITS.glob("drf-annotate*"):
        text = unit.read_text().replace("/usr/local/lib/drf/drf-night", str(UNITS / "drf-night"))
        (tmp_path / unit.name).write_text(text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.glob("drf-annotate*")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_service_is_confined() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which is not on this machine")
    service = UNITS / "drf-annotate.service"
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=40", service],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout[-300:] + said.stderr
