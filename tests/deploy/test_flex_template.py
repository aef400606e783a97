"""The Flex Template: its parameters are options of the command, and become its command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.annotate.command import add_annotate_arguments
from pipelines.annotate.engines.runners import parse_beam_options
from tests.data.corpora import write_nights
from tests.support.running import Output, Run

FOLDER = Path(__file__).parents[2] / "deploy" / "dataflow"
METADATA: dict[str, Any] = json.loads((FOLDER / "metadata.json").read_text(encoding="utf-8"))
PARAMETERS: dict[str, dict[str, Any]] = {p["name"]: p for p in METADATA["parameters"]}
# Options that make no sense for a job that somebody else starts later.
NOT_FOR_TEMPLATES = {"help", "json", "dry_run"}


def annotate_options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    add_annotate_arguments(parser)
    return {a.dest: a for a in parser._actions if a.dest not in NOT_FOR_TEMPLATES}


@pytest.fixture(scope="module")
def command_line() -> Callable[[list[str]], list[str]]:
    """The function with which the launcher's file makes parameters a command line."""
    return runpy.run_path(str(FOLDER / "launch_template.py"))["command_line"]


def parsed(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_annotate_arguments(parser)
    assert words[0] == "annotate"
    return parser.parse_known_args(words[1:])


def test_the_specification_is_one_that_dataflow_reads() -> None:
    dataflow = pytest.importorskip(
        "google.cloud.dataflow", reason="needs the extra `dataflow` (pip install '.[dataflow]')"
    )
    program = [sys.executable, FOLDER / "image_spec", "registry.example/drf:1"]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout

    # An unknown field is an error here.
    spec = dataflow.ContainerSpec.from_json(printed, ignore_unknown_fields=False)

    assert spec.image == spec.default_environment.sdk_container_image == "registry.example/drf:1"
    assert spec.sdk_info.language == dataflow.SDKInfo.Language.PYTHON
    assert [parameter.name for parameter in spec.metadata.parameters] == list(PARAMETERS)
    assert all(p.label and p.help_text for p in spec.metadata.parameters)


def test_every_option_of_the_command_is_a_parameter_and_the_others_are_options_of_beam() -> None:
    own = annotate_options()

    assert own.keys() <= PARAMETERS.keys()
    for name in PARAMETERS.keys() - own.keys():
        parse_beam_options([f"--{name}={PARAMETERS[name].get('defaultValue', '1')}"])


def test_parameters_have_the_defaults_and_choices_of_the_options() -> None:
    for name, action in annotate_options().items():
        parameter = PARAMETERS[name]
        assert parameter["isOptional"] is not action.required, name
        if name == "model":
            assert parameter["defaultValue"] == "/opt/drf/checkpoint"
        elif action.nargs == 0:
            assert (parameter["paramType"], parameter["defaultValue"]) == ("BOOLEAN", "false")
        else:
            default = "" if action.default in (None, []) else str(action.default)
            assert parameter.get("defaultValue", "") == default, name
        if action.choices:
            choices = [choice["value"] for choice in parameter["enumOptions"]]
            assert choices == list(action.choices), name


def test_patterns_accept_the_defaults() -> None:
    for name, parameter in PARAMETERS.items():
        for pattern in parameter.get("regexes", []):
            compiled = re.compile(pattern)
            if "defaultValue" in parameter:
                assert compiled.fullmatch(parameter["defaultValue"]), name


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("input", "gs://bucket/a/*.parquet gs://bucket/b", "bucket/a"),
        ("output", "gs://bucket/annotated", "annotated"),
        ("column", "post_id=ID image=", "post_id"),
        ("keep", "lang,created_at", ",lang"),
        ("run_id", "night-2026.11.19", "-night"),
        ("max_dead_letter_share", "0.2", "1.2"),
        ("retry", "fetch_failed,truncated", "fetch failed"),
        ("image_uri_prefix", "https://media.example.org/ gs://b/", "media.example.org"),
        ("resource_hint", "accelerator=type:nvidia-l4;count:1;install-nvidia-driver", "gpu=1"),
        ("batch_size", "32", "many"),
    ],
)
def test_patterns_tell_good_values_from_bad_ones(name: str, good: str, bad: str) -> None:
    [pattern] = PARAMETERS[name]["regexes"]

    assert re.fullmatch(pattern, good)
    assert not re.fullmatch(pattern, bad)


def test_parameters_become_the_command_line(
    command_line: Callable[[list[str]], list[str]],
) -> None:
    words = command_line(
        [
            "--input=gs://bucket/a gs://bucket/b",
            "--output=gs://bucket/out",
            "--column=post_id=ID image=",
            "--keep=lang,created_at",
            "--strict=true",
            "--prune=false",
            "--max_dead_letter_share=0.2",
            "--run_id=",
            "--runner=DataflowRunner",
            "--temp_location=gs://bucket/temp",
        ]
    )

    own, beam = parsed(words)
    assert own.input == ["gs://bucket/a", "gs://bucket/b"]
    assert own.column == ["post_id=ID", "image="]
    assert (own.keep, own.strict, own.prune) == (["lang,created_at"], True, False)
    assert (own.max_dead_letter_share, own.run_id) == (0.2, None)
    assert own.model == "/opt/drf/checkpoint"
    assert {"--runner=DataflowRunner", "--temp_location=gs://bucket/temp"} <= set(beam)


def test_every_parameter_with_its_default_is_understood(
    command_line: Callable[[list[str]], list[str]],
) -> None:
    given = {name: p["defaultValue"] for name, p in PARAMETERS.items() if "defaultValue" in p}
    given |= {"input": "gs://bucket/in", "output": "gs://bucket/out"}

    own, beam = parsed(command_line([f"--{name}={value}" for name, value in given.items()]))

    for name, action in annotate_options().items():
        if name not in ("input", "output", "model"):
            assert getattr(own, name) == action.default, name
    options = parse_beam_options(beam).get_all_options()
    assert options["number_of_worker_harness_threads"] == 1
    assert options["experiments"] == ["no_use_multiple_sdk_containers"]


def test_the_launcher_s_file_writes_the_job(
    tmp_path: Path,
    output: Output,
    tiny_checkpoint: Path,
    uploaded: dict[str, bytes],
    drf: Callable[..., Run],
    command_line: Callable[[list[str]], list[str]],
) -> None:
    write_nights(tmp_path / "in")
    parameters = [
        f"--input={tmp_path / 'in'}",
        f"--output={output.root}",
        f"--model={tiny_checkpoint}",
        "--device=cpu",
        "--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
        "--runner=DataflowRunner",
        "--project=some-project",
        "--region=europe-west4",
        "--job_name=nightly",
        "--temp_location=gs://bucket/temp",
        "--staging_location=gs://bucket/staging",
        "--template_location=gs://bucket/job_object",
        "--sdk_container_image=registry.example/drf:1",
    ]

    run = drf(*command_line(parameters))

    assert run.code == 0, run.err
    job = json.loads(uploaded["job_object"])
    assert job["name"] == "nightly"
    assert "pickled_main_session" not in uploaded


@pytest.mark.parametrize("gpu", ["", "nvidia-l4"])
def test_the_launch_script_gives_options_that_are_understood(
    tmp_path: Path,
    output: Output,
    tiny_checkpoint: Path,
    uploaded: dict[str, bytes],
    drf: Callable[..., Run],
    gpu: str,
) -> None:
    write_nights(tmp_path / "in")
    stand_in = tmp_path / "bin" / "drf"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    own = ["--input", tmp_path / "in", "--output", output.root, "--model", tiny_checkpoint]
    environment = {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        **{"PROJECT": "some-project", "REGION": "europe-west4", "BUCKET": "gs://bucket"},
        **{"IMAGE": "registry.example/drf:1", "GPU": gpu, "SUBNETWORK": "regions/r/subnetworks/s"},
    }
    program = [FOLDER / "launch", *own]
    printed = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)

    run = drf(*printed.stdout.splitlines(), "--template_location=gs://bucket/job.json")

    assert run.code == 0, run.err
    [pool] = json.loads(uploaded["job.json"])["environment"]["workerPools"]
    assert pool["subnetwork"] == "regions/r/subnetworks/s"
    assert pool["numThreadsPerWorker"] == (2 if gpu else 1)
    assert (b"nvidia-l4" in uploaded["pipeline.pb"]) is bool(gpu)
