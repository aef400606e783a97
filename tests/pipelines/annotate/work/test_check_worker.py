"""What a worker looks at before it imports torch, and that a client does not import it at all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from drf_core.checkpoint import CheckpointError
from pipelines.annotate.job import JobOptions
from pipelines.annotate.work.check_worker import ModelError, check_worker
from pipelines.storage.files import OutputRefusedError
from tests.support.running import job_options

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def options(tiny_checkpoint: Path, tmp_path: Path) -> JobOptions:
    return job_options(tiny_checkpoint, tmp_path / "out")


def test_a_worker_as_it_was_planned_passes(options: JobOptions) -> None:
    check_worker(options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"package_version": "0.0.9"}, ModelError, "the plan was made with 0.0.9"),
        ({"model_revision": "0" * 64}, ModelError, "run again with a --model that all of them"),
        ({"model": "/nowhere/model"}, CheckpointError, "no such folder"),
        ({"output": "/sys/drf"}, OutputRefusedError, "cannot write /sys/drf"),
    ],
)
def test_what_is_not_as_it_was_planned_is_named(
    options: JobOptions, change: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_worker(dataclasses.replace(options, **change))


def test_a_client_builds_the_job_without_torch() -> None:
    script = (
        "import sys, pipelines.annotate.pipeline; "
        "print({'torch', 'transformers'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "set()\n"
