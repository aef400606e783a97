"""What is asked of Flink itself: Beam's job server only forgets a job that it is to cancel."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
)

_TIMEOUT_SECONDS = 10
_ENDED = {"FINISHED", "FAILED", "CANCELED"}


def name_job(options: PipelineOptions, run_id: str) -> None:
    """Give the job the name that `cancel_job` finds it by, where it has none and Flink is known."""
    cloud = options.view_as(GoogleCloudOptions)
    if _address(options) and not cloud.job_name:
        cloud.job_name = f"drf-{run_id}"


def cancel_job(options: PipelineOptions) -> None:
    """Ask the JobManager at --flink_master to cancel the job; do nothing where none is named.

    Raises OSError where it does not answer.
    """
    for job in _jobs_at_work(options):
        _ask(f"{job}?mode=cancel", "PATCH")


def _jobs_at_work(options: PipelineOptions) -> list[str]:
    """URLs of the jobs of that name that did not end yet: one, but for a repeated run id."""
    address, name = _address(options), options.view_as(GoogleCloudOptions).job_name
    if not address:
        return []
    jobs = _ask(f"{address}/jobs/overview")["jobs"]
    return [
        f"{address}/jobs/{job['jid']}"
        for job in jobs
        if job["name"] == name and job["state"] not in _ENDED
    ]


def _address(options: PipelineOptions) -> str | None:
    master = options.view_as(FlinkRunnerOptions).flink_master
    if master.startswith("["):
        return None
    return (master if "://" in master else f"http://{master}").rstrip("/")


def _ask(url: str, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        return json.loads(answer.read() or "null")
