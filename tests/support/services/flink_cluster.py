"""The Flink cluster that deploy/flink/cluster brought up, as tests see and break it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.running import Output, Run

SCRIPTS = Path(__file__).resolve().parents[3] / "deploy" / "flink"
TASKMANAGERS = (1, 2)


class Cluster:
    """A session cluster with two TaskManagers; see deploy/flink/cluster."""

    def __init__(self) -> None:
        settings = f"source {SCRIPTS}/settings.sh && echo $jobmanager"
        self._address = _output_of("bash", "-c", settings).strip()

    def is_up(self) -> bool:
        """Whether the JobManager answers, and both TaskManagers are registered."""
        with contextlib.suppress(OSError):
            return bool(self.ask("/overview")["taskmanagers"] == len(TASKMANAGERS))
        return False

    def ask(self, path: str, method: str = "GET") -> Any:
        """What the JobManager answers to a request."""
        request = urllib.request.Request(f"http://{self._address}:8081{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest first."""
        jobs: list[dict[str, Any]] = self.ask("/jobs/overview")["jobs"]
        return sorted(jobs, key=lambda job: -job["start-time"])

    def become_idle(self) -> None:
        """Cancel what runs, and wait until both TaskManagers have nothing to do."""
        wait_until(self.is_up)
        for job in self.jobs():
            if job["state"] not in ("FINISHED", "FAILED", "CANCELED"):
                self.ask(f"/jobs/{job['jid']}?mode=cancel", "PATCH")
        wait_until(lambda: self.ask("/overview")["slots-available"] == len(TASKMANAGERS))

    def annotating_task_managers(self) -> set[str]:
        """The TaskManagers that were given work units in the newest job."""
        job = self.jobs()[0]["jid"]
        (step,) = (v for v in self.ask(f"/jobs/{job}")["vertices"] if "{Annotate," in v["name"])
        managers = self.ask(f"/jobs/{job}/vertices/{step['id']}/taskmanagers")["taskmanagers"]
        return {
            manager["taskmanager-id"] for manager in managers if manager["metrics"]["read-records"]
        }

    def kill_task_manager(self, number: int) -> None:
        """SIGKILL its process; its worker pool stays."""
        (java,) = (pid for pid in self._processes(number) if _name(pid) == "java")
        os.kill(java, signal.SIGKILL)

    @contextlib.contextmanager
    def on_workers(self, *command: object, at: Path) -> Iterator[None]:
        """Mount something at a path that only the workers see, as long as the block runs."""
        for number in TASKMANAGERS:
            self._run_on(number, "mount", *command, at)
        try:
            yield
        finally:
            for number in TASKMANAGERS:
                self._run_on(number, "umount", "--lazy", at)

    def _run_on(self, number: int, *command: object) -> None:
        _output_of(SCRIPTS / "cluster", "exec", number, *command)

    def _processes(self, number: int) -> list[int]:
        return [
            int(pid) for pid in _output_of("ip", "netns", "pids", f"drf-flink-tm{number}").split()
        ]


# In bf16 a post's numbers depend on those it shares a batch with.
COMPARABLE = ("--runtime", "openvino-f32")


def submit(source: Path, output: Output, *arguments: object) -> subprocess.Popen[str]:
    """Start deploy/flink/submit as a process group of its own."""
    command = [SCRIPTS / "submit", "--input", source, "--output", output.root, "--json"]
    return subprocess.Popen(
        [str(word) for word in (*command, *COMPARABLE, *arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHON": sys.executable},
    )


def finish(process: subprocess.Popen[str]) -> Run:
    """Wait for a client to end."""
    out, err = process.communicate(timeout=1800)
    return Run(process.returncode, out, err)


def wait_until(condition: Callable[[], bool], seconds: float = 900) -> None:
    """Wait; the time allowed is for a machine that has much else to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def _output_of(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
