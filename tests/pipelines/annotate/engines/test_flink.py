"""Cancelling a job on Flink; tests/deploy/test_flink.py does it on a cluster."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.annotate.engines.flink import cancel_job, name_job


class JobManager(http.server.BaseHTTPRequestHandler):
    """Answers as Flink's JobManager does."""

    jobs: ClassVar[list[dict[str, str]]] = [
        {"jid": "1", "name": "drf-night-1", "state": "FINISHED"},
        {"jid": "2", "name": "drf-night-1", "state": "RUNNING"},
        {"jid": "3", "name": "drf-night-2", "state": "RUNNING"},
    ]
    cancelled: ClassVar[list[str]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/jobs/overview":
            self.answer({"jobs": self.jobs})
        else:
            assert self.path == "/jobs/2/exceptions"
            entry = {"stacktrace": "one", "concurrentExceptions": [{"stacktrace": "two"}]}
            self.answer({"exceptionHistory": {"entries": [entry, {"stacktrace": "three"}]}})

    def do_PATCH(self) -> None:
        self.cancelled.append(self.path)
        self.answer({})

    def answer(self, value: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


@pytest.fixture
def master() -> Iterator[str]:
    JobManager.cancelled.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), JobManager) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_job_of_the_run_is_cancelled_and_no_other(master: str) -> None:
    options = PipelineOptions([f"--flink_master={master}"])
    name_job(options, "night-1")
    cancel_job(options)
    assert JobManager.cancelled == ["/jobs/2?mode=cancel"]


def test_a_job_that_was_given_a_name_is_found_by_it(master: str) -> None:
    options = PipelineOptions([f"--flink_master=http://{master}/", "--job_name=drf-night-2"])
    name_job(options, "night-1")
    cancel_job(options)
    assert JobManager.cancelled == ["/jobs/3?mode=cancel"]


def test_nothing_is_asked_where_no_address_is_known(master: str) -> None:
    options = PipelineOptions([])
    name_job(options, "night-1")
    cancel_job(options)
    assert options.get_all_options()["job_name"] is None
    assert JobManager.cancelled == []
