"""The job as Dataflow would get it, without an account: everything up to the upload is Beam's own.

Needs the extra `dataflow`; what the service makes of the job was not run here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api

from pipelines.annotate.engines.dataflow import check_installed
from pipelines.annotate.engines.runners import as_one_line
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.support.running import Output, Run, annotate_arguments

Annotate = Callable[..., Run]

IMAGE = "registry.example/drf:1"
ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
BUCKET = "gs://some-bucket"
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=some-project",
    "--region=europe-west4",
    f"--temp_location={BUCKET}/temp",
    f"--staging_location={BUCKET}/staging",
    f"--template_location={BUCKET}/job.json",
    f"--sdk_container_image={IMAGE}",
]
_ACCELERATOR_URN = "beam:resources:accelerator:v1"

# Runs a staged pipeline in this process, as a worker in its container would.
_RUN_STAGED = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

with open(sys.argv[1], "rb") as file:
    pipeline = beam_runner_api_pb2.Pipeline.FromString(file.read())
for environment in pipeline.components.environments.values():
    environment.urn, environment.payload = "beam:env:embedded_python:v1", b""
    del environment.dependencies[:]
FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
"""


def staged_pipeline(uploaded: dict[str, bytes]) -> beam_api.Pipeline:
    return beam_api.Pipeline.FromString(uploaded["pipeline.pb"])


def hints_by_step(pipeline: beam_api.Pipeline) -> dict[str, dict[str, bytes]]:
    """The resource hints of every step that runs on a worker."""
    environments = pipeline.components.environments
    return {
        step.unique_name: dict(environments[step.environment_id].resource_hints)
        for step in pipeline.components.transforms.values()
        if step.environment_id
    }


@pytest.fixture
def write_job(
    tmp_path: Path,
    drf: Annotate,
    output: Output,
    tiny_checkpoint: Path,
) -> Callable[..., Run]:
    """Calls `drf annotate` as a Flex Template's launcher does: the job is written, not run."""

    def call(*options: str) -> Run:
        arguments = annotate_arguments(tmp_path / "in", output, tiny_checkpoint)
        arguments.remove("--json")
        return drf(*arguments, *DATAFLOW, *options)

    return call


def test_the_job_asks_for_the_image_the_workers_and_the_processes_it_was_told_to(
    tmp_path: Path, uploaded: dict[str, bytes], write_job: Callable[..., Run]
) -> None:
    write_nights(tmp_path / "in")

    run = write_job(
        "--max_num_workers=4",
        "--machine_type=g2-standard-8",
        "--disk_size_gb=50",
        "--experiments=no_use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=2",
        "--service_account_email=drf@some-project.iam.gserviceaccount.com",
    )

    assert run.code == 0, run.err
    environment = json.loads(uploaded["job.json"])["environment"]
    [pool] = environment["workerPools"]
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == (
        "g2-standard-8",
        50,
        2,
    )
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 4
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert environment["serviceAccountEmail"].startswith("drf@")


def test_the_steps_are_those_of_the_job_and_share_one_environment(
    tmp_path: Path, uploaded: dict[str, bytes], write_job: Callable[..., Run]
) -> None:
    write_nights(tmp_path / "in")

    write_job()

    pipeline = staged_pipeline(uploaded)
    names = {name.split("/")[0] for name in hints_by_step(pipeline)}
    steps = "WorkUnits SpreadOverWorkers Annotate Failures FailedFiles KeyOutcomes Partitions "
    steps += "WaitForShards Publish Collect WriteManifest"
    assert set(steps.split()) <= names
    [environment] = pipeline.components.environments.values()
    assert dict(environment.resource_hints) == {}


def test_the_accelerator_is_asked_for_by_the_step_that_annotates_and_by_no_other(
    tmp_path: Path, uploaded: dict[str, bytes], write_job: Callable[..., Run]
) -> None:
    write_nights(tmp_path / "in")

    run = write_job(f"--resource_hint=accelerator={ACCELERATOR}", "--resource_hint=min_ram=30GB")

    assert run.code == 0, run.err
    hints = hints_by_step(staged_pipeline(uploaded))
    assert hints.pop("Annotate") == {
        _ACCELERATOR_URN: ACCELERATOR.encode(),
        "beam:resources:min_ram_bytes:v1": b"30000000000",
    }
    assert len(hints) > 10 and not any(hints.values())


def test_the_job_runs_in_another_process_that_has_nothing_but_the_package(
    tmp_path: Path,
    uploaded: dict[str, bytes],
    write_job: Callable[..., Run],
    annotate: Annotate,
    output: Output,
) -> None:
    write_nights(tmp_path / "in")
    written = write_job(f"--resource_hint=accelerator={ACCELERATOR}", "--run-id=later")
    assert output.places() == []
    (tmp_path / "pipeline.pb").write_bytes(uploaded["pipeline.pb"])

    # The folder to run in is not on the path of the workers, and neither are the tests.
    ran = subprocess.run(
        [sys.executable, "-c", _RUN_STAGED, tmp_path / "pipeline.pb"],
        cwd=tmp_path,
        env={"PYTHONPATH": _package_alone(tmp_path / "package"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert len(output.places()) == 40
    assert output.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]
    assert (output.root / "_runs/later/manifest.json").is_file()
    assert "_runs/later/manifest.json" in written.out
    assert annotate(tmp_path / "in").manifest["computed_rows"] == 0


def _package_alone(folder: Path) -> str:
    folder.mkdir()
    for room in ("schemas", "drf_core", "pipelines"):
        (folder / room).symlink_to(Path(__file__).parents[2] / room)
    return str(folder)


def test_a_night_with_nothing_to_do_still_gives_the_launcher_a_job(
    tmp_path: Path,
    uploaded: dict[str, bytes],
    write_job: Callable[..., Run],
    annotate: Annotate,
) -> None:
    write_nights(tmp_path / "in")
    annotate(tmp_path / "in")

    run = write_job()

    assert run.code == 0, run.err
    assert "job.json" in uploaded


@pytest.mark.parametrize("option", ["--json", "--dry-run"])
def test_a_job_that_runs_later_has_nothing_to_tell_now(
    tmp_path: Path, uploaded: dict[str, bytes], write_job: Callable[..., Run], option: str
) -> None:
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(3))

    run = write_job(option)

    assert run.code == 2
    assert option in run.err and len(run.err.splitlines()) == 1


def test_a_hint_that_beam_does_not_know_is_wrong_usage(
    tmp_path: Path,
    annotate: Annotate,
) -> None:
    write_posts(tmp_path / "posts.parquet", make_posts(3))

    run = annotate(tmp_path / "posts.parquet", "--resource_hint=gpu=1")

    assert run.code == 2
    assert run.err == "drf: error: --resource_hint: Unknown resource hint: gpu.\n"


def test_hints_change_nothing_on_a_runner_that_cannot_heed_them(
    tmp_path: Path,
    annotate: Annotate,
    output: Output,
) -> None:
    write_nights(tmp_path / "in")

    run = annotate(tmp_path / "in", f"--resource_hint=accelerator={ACCELERATOR}")

    assert run.code == 0, run.err
    assert len(output.places()) == 40


def test_without_the_packages_of_google_cloud_the_extra_is_named_at_once(
    drf: Annotate,
    output: Output,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    arguments = annotate_arguments("gs://some-bucket/in", output, tiny_checkpoint)

    run = drf(*arguments, "--runner=DataflowRunner")

    assert run.code == 2
    [line] = run.err.splitlines()
    assert "--runner DataflowRunner" in line and "'.[dataflow]'" in line
    assert not output.root.exists()


def test_other_runners_are_not_asked_for_those_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    monkeypatch.setitem(sys.modules, "gcsfs", None)

    check_installed(FnApiRunner())


def test_what_a_worker_on_dataflow_raised_is_told_in_one_line() -> None:
    text = (
        "Dataflow pipeline failed. State: FAILED, Error:\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/site-packages/pipelines/annotate/job.py", line 1\n'
        "pipelines.annotate.work.check_worker.ModelError: this worker has version 1 of the "
        "package, the plan was made with 2 [while running 'Annotate']\n"
    )

    error = as_one_line(RuntimeError(text))

    assert re.fullmatch(r"this worker has version 1 .* was made with 2", str(error))
