"""`drf annotate` with its input and output in an emulated object store, and fixtures for it.

The fixtures are named where they are used, by import: only those tests start the servers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.storage import retrying
from tests.support.running import Output, Run
from tests.support.services.emulators import Emulator, run_gcs, run_s3

RUN_COLUMNS = ("run_id", "annotated_at")


@dataclass(frozen=True)
class Remote:
    """A bucket with an input and an output, and the command on them."""

    emulator: Emulator
    bucket: str
    drf: Callable[..., Run]
    checkpoint: Path
    folder: Path

    def arguments(self, *arguments: object) -> list[str]:
        return [
            *("annotate", "--input", f"{self.bucket}/in", "--output", f"{self.bucket}/out"),
            *("--json", "--model", str(self.checkpoint), "--device", "cpu", "--batch-size", "16"),
            *("--threads", "1", *map(str, arguments)),
        ]

    def annotate(self, *arguments: object) -> Run:
        return self.drf(*self.arguments(*arguments))

    def upload(self, folder: Path) -> None:
        self.emulator.upload(folder, f"{self.bucket}/in")

    def output(self) -> Output:
        """What the store really holds, whatever the proxy says of it."""
        return self.emulator.download(f"{self.bucket}/out", self.folder / "downloaded")

    def local(self, source: Path, *more: object) -> Output:
        """What the same command writes to a local disk."""
        shutil.rmtree(self.folder / "local", ignore_errors=True)
        arguments = self.arguments(*more)
        arguments[2], arguments[4] = str(source), str(self.folder / "local")
        assert self.drf(*arguments).code == 0
        return Output(self.folder / "local")


def rows_of(output: Output) -> list[dict[str, Any]]:
    """All rows of both trees, but for the columns that tell of the run."""
    rows = [*output.annotations, *output.dead_letters]
    return [{k: v for k, v in row.items() if k not in RUN_COLUMNS} for row in rows]


@pytest.fixture(scope="session")
def s3() -> Iterator[Emulator]:
    with run_s3() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def gs() -> Iterator[Emulator]:
    with run_gcs() as emulator:
        yield emulator


@pytest.fixture
def remote(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    drf: Callable[..., Run],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> Iterator[Remote]:
    """On S3, or on the store that the test is parametrised with."""
    emulator: Emulator = request.getfixturevalue(getattr(request, "param", "s3"))
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.05)
    # fsspec keeps its clients, with the address that the environment named when they were made.
    clients = fsspec.get_filesystem_class(emulator.protocol)
    clients.clear_instance_cache()
    proxy = emulator.proxy
    proxy.requests.clear()
    proxy.spoilt.clear()
    yield Remote(emulator, emulator.make_bucket(), drf, tiny_checkpoint, tmp_path)
    proxy.fault_share, proxy.late_seconds, proxy.refuse, proxy.before = 0.0, 0.0, None, None
    clients.clear_instance_cache()
