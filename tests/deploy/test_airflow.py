"""The nightly DAG, run by Airflow itself, and what it relies on: several nights at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.corpora import damage_footer, make_posts, write_nights, write_posts
from tests.support.running import Output, annotate_arguments, start_drf

ROOT = Path(__file__).resolve().parents[2]
NIGHTS = ("2026-11-17", "2026-11-18", "2026-11-19")
LOST = {"post_id": "lost", "text": None, "image": None}


def without_run(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what tells runs apart: names, times, last digits that batches decide."""
    return [
        {
            name: value
            for name, value in row.items()
            if name not in ("run_id", "annotated_at") and not isinstance(value, float | dict)
        }
        for row in rows
    ]


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def states(night: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in night["tasks"].items()}


def tries(night: dict[str, Any]) -> set[int]:
    return {task["tries"] for task in night["tasks"].values()}


class TestSeveralNightsAtOnce:
    """A backfill: each night its own process, all on one output."""

    def test_they_leave_what_one_run_over_all_leaves(
        self, tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        write_nights(tmp_path / "posts", NIGHTS, files_per_night=4, posts_per_file=25)
        together, alone = Output(tmp_path / "together"), Output(tmp_path / "alone")
        processes = [
            start_drf(
                annotate_arguments(tmp_path / "posts" / f"dt={night}", together, tiny_checkpoint)
            )
            for night in NIGHTS
        ]
        printed = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0]
        one = start_drf(annotate_arguments(tmp_path / "posts", alone, tiny_checkpoint))
        by_one = json.loads(one.communicate()[0])
        assert one.returncode == 0

        manifests = [json.loads(text) for text in printed]
        assert [run["totals"]["annotations"] for run in manifests] == [100, 100, 100]
        for run, night in zip(manifests, NIGHTS, strict=True):
            assert run["partitions"] == {f"dt={night}": "published"}
            assert run["orphans"] == []
        # To a checkpoint that has learned nothing much is strange, whoever asks it.
        told = sorted(line for run in manifests for line in run["warnings"])
        assert told == sorted(by_one["warnings"])
        assert all("of low quality" in line for line in told)
        assert len({run["run_id"] for run in manifests}) == 3
        assert len(list(together.root.glob("_runs/*/manifest.json"))) == 3
        assert together.succeeded() == alone.succeeded() == [f"dt={night}" for night in NIGHTS]
        assert without_run(together.annotations) == without_run(alone.annotations)

    def test_a_night_run_twice_at_once_is_there_once(
        self, tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        # A scheduler that lost sight of a task starts its next try beside it, under one run id.
        [posts] = write_nights(tmp_path / "posts", NIGHTS[:1], files_per_night=1)
        output = Output(tmp_path / "annotated")
        arguments = annotate_arguments(posts.parent, output, tiny_checkpoint)
        processes = [start_drf([*arguments, "--run-id", "night.try"]) for _ in range(2)]
        for process in processes:
            process.communicate()
        assert [process.returncode for process in processes] == [0, 0]
        assert set(Counter(output.places()).values()) == {1}
        assert len(output.annotations) == 10
        assert output.succeeded() == [f"dt={NIGHTS[0]}"]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an Airflow of its own, with an empty database."""
    folder = ROOT / ".venv-airflow"
    installed = subprocess.run(
        [ROOT / "deploy" / "airflow" / "install", folder],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow"),
        "AIRFLOW__CORE__SENSITIVE": "a secret of Airflow's",
        "PYTHONPATH": "/nowhere",
    }
    subprocess.run(
        ["airflow", "db", "migrate"], env=environment, check=True, capture_output=True, text=True
    )
    return environment


@pytest.fixture(scope="module")
def nights(
    airflow: dict[str, str], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What became of one run of the DAG each, by the name of what happened in that night."""
    root = tmp_path_factory.mktemp("nights")
    write_nights(root / "posts", ("2026-11-11", "2026-11-12"), files_per_night=1)
    write_posts(root / "posts/dt=2026-11-11/lost.parquet", [*make_posts(2), LOST])
    write_posts(root / "posts/dt=2026-11-12/bad.parquet", make_posts(3))
    damage_footer(root / "posts/dt=2026-11-12/bad.parquet")
    write_nights(root / "late", ("2026-11-13",), files_per_night=1)
    (root / "late/dt=2026-11-13/_SUCCESS").touch()
    (root / "blocked").write_text("a file, so that no folder can be made of it")

    drf = script(
        root / "drf",
        f'env > {root}/environment; PYTHONPATH={ROOT} exec {sys.executable} -m pipelines.cli "$@"',
    )
    slow = script(
        root / "slow",
        'case "$*" in *--dry-run*) exit 0;; esac',
        f"trap 'kill $!; echo stopped >> {root}/stopped; exit 130' TERM",
        "sleep 600 & echo drf: one line before >&2; wait",
    )
    settings = {
        "drf": str(drf),
        "input": f"{root}/posts/dt={{night}}",
        "output": str(root / "annotated"),
        "options": ["--model", str(tiny_checkpoint), "--device", "cpu", "--threads", "1"],
    }
    asked = {
        "held back": {"night": "2026-11-11"},
        "failed file": {"night": "2026-11-12"},
        "comes late": {
            "night": "2026-11-13",
            "settings": {
                **settings,
                "wait_for": f"{root}/posts/dt={{night}}/_SUCCESS",
                "output": f"{root}/blocked/annotated",
            },
            "options": ["--retry", "fetch_failed", "--strict"],
            "changes": {
                "1": [f"{root}/late/dt=2026-11-13", f"{root}/posts/dt=2026-11-13"],
                "3": [f"{root}/blocked", f"{root}/given way"],
            },
        },
        "never comes": {"night": "2026-11-14", "deadline_hours": 0},
        "wrong usage": {
            "night": "2026-11-11",
            "settings": {**settings, "options": [*settings["options"], "--colum", "text=body"]},
        },
        "forbidden": {"night": "2026-11-11", "options": ["--environment_config=/bin/sh"]},
        "no such drf": {"night": "2026-11-11", "settings": {**settings, "drf": f"{root}/none"}},
        "too slow": {
            "night": "2026-11-11",
            "settings": {**settings, "drf": str(slow)},
            "timeout_seconds": 1,
        },
    }
    result = subprocess.run(
        ["python", ROOT / "tests" / "support" / "run_dag.py"],
        input=json.dumps([{"settings": settings, **night} for night in asked.values()]),
        env=airflow,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    came_of = json.loads(result.stdout.splitlines()[-1])
    return {"root": root, **dict(zip(asked, came_of, strict=True))}


class TestNights:
    def test_one_that_comes_late_is_waited_for_and_tried_again_under_its_run_id(
        self, nights: dict[str, Any]
    ) -> None:
        night = nights["comes late"]
        assert states(night) == {
            "wait_for_posts": "success",
            "annotate": "success",
            "partitions_published": "success",
            "files_readable": "success",
        }
        assert night["tasks"]["wait_for_posts"]["messages"] == []
        assert night["tasks"]["annotate"]["tries"] == 2
        [message] = night["tasks"]["annotate"]["messages"]
        assert message.startswith("exit code 1: drf: error: ") and "blocked" in message
        returned = night["returned"]
        assert returned["exit_code"] == 0
        assert returned["totals"]["annotations"] == returned["computed_rows"] == 10
        assert sum(returned["totals"]["labels"].values()) == 10
        assert "/" not in returned["run_id"] and ":" not in returned["run_id"]
        assert night["run_id"][:20] in returned["run_id"]
        output = Output(nights["root"] / "blocked" / "annotated")
        runs = [path.name for path in output.root.glob("_runs/*") if path.is_dir()]
        assert runs == [returned["run_id"]]
        assert output.succeeded() == ["dt=2026-11-13"]

    def test_whoever_starts_one_may_give_few_options(self, nights: dict[str, Any]) -> None:
        night = nights["forbidden"]
        assert states(night)["wait_for_posts"] == "failed"
        [message] = night["tasks"]["wait_for_posts"]["messages"]
        assert "not '--environment_config=/bin/sh'" in message

    def test_one_that_is_held_back_is_red_where_people_must_look(
        self, nights: dict[str, Any]
    ) -> None:
        night = nights["held back"]
        assert states(night) == {
            "wait_for_posts": "success",
            "annotate": "success",
            "partitions_published": "failed",
            "files_readable": "success",
        }
        assert night["returned"]["exit_code"] == 3
        assert tries(night) == {1}
        [message] = night["tasks"]["partitions_published"]["messages"]
        assert "1 of 13 posts are dead letters" in message

    def test_one_with_a_failed_file_is_red_for_that_file_alone(
        self, nights: dict[str, Any]
    ) -> None:
        night = nights["failed file"]
        assert states(night) == {
            "wait_for_posts": "success",
            "annotate": "success",
            "partitions_published": "success",
            "files_readable": "failed",
        }
        assert night["returned"]["exit_code"] == 4
        assert night["returned"]["totals"]["annotations"] == 10
        assert tries(night) == {1}
        [message] = night["tasks"]["files_readable"]["messages"]
        assert "files that failed: 1. drf: error: " in message and "bad.parquet" in message

    def test_one_that_never_comes_fails_at_the_deadline(self, nights: dict[str, Any]) -> None:
        night = nights["never comes"]
        assert states(night)["wait_for_posts"] == "failed"
        assert states(night)["annotate"] == "upstream_failed"
        [message] = night["tasks"]["wait_for_posts"]["messages"]
        assert message.endswith("dt=2026-11-14: no such file or folder")

    def test_wrong_usage_is_not_tried_again(self, nights: dict[str, Any]) -> None:
        task = nights["wrong usage"]["tasks"]["wait_for_posts"]
        assert (task["state"], task["tries"]) == ("failed", 1)
        assert task["messages"][0].startswith("exit code 2: drf: error: unknown option --colum")

    def test_a_drf_that_is_not_there_is_named(self, nights: dict[str, Any]) -> None:
        task = nights["no such drf"]["tasks"]["wait_for_posts"]
        assert (task["state"], task["tries"]) == ("failed", 1)
        assert "cannot start" in task["messages"][0] and "Variable drf" in task["messages"][0]

    def test_one_that_takes_too_long_is_stopped_and_tried_again(
        self, nights: dict[str, Any]
    ) -> None:
        task = nights["too slow"]["tasks"]["annotate"]
        assert (task["state"], task["tries"]) == ("failed", 4)
        assert (nights["root"] / "stopped").read_text().split() == ["stopped"] * 4

    def test_drf_sees_nothing_of_airflow(self, nights: dict[str, Any]) -> None:
        environment = (nights["root"] / "environment").read_text()
        assert "PATH=" in environment
        assert "AIRFLOW" not in environment and "/nowhere" not in environment
