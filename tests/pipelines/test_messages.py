"""What a command says of what went wrong: one line, without credentials."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.annotate.engines.runners import as_one_line
from pipelines.annotate.job import Plan
from pipelines.storage.redaction import one_line
from tests.support.running import Output, Run, annotate_arguments

ROOT = Path(__file__).resolve().parents[2]

Drf = Callable[..., Run]


@pytest.mark.parametrize("option", ["--input", "--output", "--model"])
@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_no_message_tells_credentials(
    drf: Drf,
    posts: Path,
    tiny_checkpoint: Path,
    output: Output,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    option: str,
) -> None:
    """Neither ours nor the one of a store's library, which takes all of it for the bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    secret = f"{protocol}://user:hunter2@bucket/posts?X-Amz-Signature=hunter2"

    run = drf(*annotate_arguments(posts, output, tiny_checkpoint), option, secret)

    assert run.code in (1, 2)
    assert f"{protocol}://bucket/posts" in run.err
    assert "hunter2" not in run.out + run.err


def test_a_reader_that_leaves_early_is_told_in_one_line(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pipelines.cli", "sample", str(tmp_path / "sample")]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == "drf: error: whoever read the output closed it before its end\n"


def test_what_the_core_warns_of_is_told(
    drf: Drf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(folder: str) -> None:
        logging.getLogger("drf_core.runtimes.frozen_encoder").warning("torch encodes the images")

    monkeypatch.setattr("pipelines.sample.command.make_sample", warn)
    assert drf("sample", tmp_path / "sample").err == "drf: warning: torch encodes the images\n"


def test_what_a_library_quotes_of_a_url_tells_no_credentials() -> None:
    quoted = 'Invalid bucket name "user:hunter2@bucket", of part@1.parquet, at 12:30'
    assert one_line(quoted) == 'Invalid bucket name "bucket", of part@1.parquet, at 12:30'


def test_the_summary_tells_no_credentials(drf: Drf, posts: Path, tiny_checkpoint: Path) -> None:
    run = drf(
        *("annotate", "--input", posts, "--output", "memory://me:hunter2@bucket/out"),
        *("--model", tiny_checkpoint, "--device", "cpu", "--threads", "1"),
    )

    assert run.code == 0, run.err
    assert "memory://bucket/out/annotations" in run.out
    assert "hunter2" not in run.out + run.err


def test_an_unforeseen_error_is_one_line_too(
    drf: Drf, posts: Path, tiny_checkpoint: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Plan:
        raise ZeroDivisionError("division\nby http://me:hunter2@zero/")

    monkeypatch.setattr("pipelines.annotate.command.make_plan", fail)

    run = drf(*annotate_arguments(posts, output, tiny_checkpoint))

    assert run.code == 1
    assert run.err == (
        "drf: error: ZeroDivisionError: division by http://zero/ (DRF_DEBUG=1 shows where)\n"
    )


@pytest.mark.parametrize(
    ("quoted", "message", "exit_code"),
    [
        (
            'Traceback (most recent call last):\n  File "x.py", line 1, in process\n'
            "schemas.errors.UsageError: --device cuda: no GPU [while running 'Annotate']\n",
            "--device cuda: no GPU",
            2,
        ),
        (
            "java.lang.RuntimeException: Error received from SDK harness for instruction 5: "
            'Traceback (most recent call last):\n  File "x.py"\nValueError: inner\n\n'
            "During handling of the above exception, another exception occurred:\n\n"
            "pipelines.storage.files.OutputError: "
            "cannot write s3://out [while running 'Annotate-ptr']\n\n"
            "\tat org.apache.beam.fn.Client.java:180\n",
            "cannot write s3://out",
            1,
        ),
        (
            "something else\nRuntimeError: the last line says it",
            "RuntimeError: RuntimeError: the last line says it",
            1,
        ),
    ],
)
def test_what_a_runner_quotes_of_a_worker_comes_back_as_one_line(
    quoted: str, message: str, exit_code: int
) -> None:
    error = as_one_line(RuntimeError(quoted))

    assert str(error) == message
    assert getattr(error, "exit_code", None) == exit_code
