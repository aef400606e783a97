"""The steps of a run, the same in this process and on an engine: each work unit computed, each
partition published, then one report and one manifest. Needs no Beam.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pipelines.annotate.job import JobOptions, Plan, ShardOutcome, WorkUnit
from pipelines.annotate.manifest import build_manifest, write_manifest
from pipelines.annotate.output.attempts import forget_attempts
from pipelines.annotate.progress import show_progress
from pipelines.annotate.publish.partition_tasks import PartitionTask, partition_tasks
from pipelines.annotate.publish.publish_partition import publish_partition
from pipelines.annotate.publish.results import PartitionResult
from pipelines.annotate.report.model_facts import ModelFacts
from pipelines.annotate.work.check_worker import check_worker
from pipelines.storage.files import OutputError, open_store
from pipelines.storage.redaction import reason_of
from schemas.manifest import Manifest


@dataclass(frozen=True)
class RunStart:
    """When a run began (UTC).

    options: what was asked for beside the plan's options, without credentials. planned: when
    the plan stood. facts: of the checkpoint, for the report; report: whether one is wanted.
    """

    time: datetime
    options: Mapping[str, Any] = field(default_factory=dict)
    planned: datetime | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    report: bool = True


@dataclass(frozen=True)
class ClosedPartition:
    """What became of a partition, and what workers said of its shards."""

    result: PartitionResult
    outcomes: tuple[ShardOutcome, ...]


def compute(unit: WorkUnit, options: JobOptions) -> Iterator[ShardOutcome]:
    """A work unit's outcomes, on a worker where everything is as planned."""
    check_worker(options)
    # Not before, and not on a client whose workers are elsewhere: it brings the model along.
    from pipelines.annotate.work.annotate_unit import annotate_unit

    yield from annotate_unit(unit, options)


def partitions_to_publish(plan: Plan) -> list[PartitionTask]:
    """What the plan wants of every partition that is not as it should be yet."""
    tasks = partition_tasks(plan)
    return [tasks[partition] for partition in plan.publish]


def close_partition(
    options: JobOptions,
    task: PartitionTask,
    outcomes: Sequence[ShardOutcome],
    failed_files: Sequence[str],
) -> ClosedPartition:
    """Publish one partition. failed_files: of the whole run; under --strict one is enough.

    Shards that failed have their killed attempts forgotten: whoever stopped the runs may have
    killed them, so the next run tries them anew.
    """
    failures = {o.source_file: o.failure for o in outcomes if o.failure is not None}
    withhold = None
    if options.strict and failed_files:
        withhold = f"--strict: nothing is published, as {failed_files[0]} failed"
    try:
        result = publish_partition(options, task, failures, withhold)
        if failures:
            failed_keys = [outcome.key for outcome in outcomes if outcome.failure is not None]
            forget_attempts(open_store(options.output), failed_keys)
    except OutputError as error:
        # Trying again at once would not help, and the other partitions can be published.
        result = PartitionResult(task.partition, "incomplete", message=str(error))
    return ClosedPartition(result, tuple(outcomes))


def close_run(plan: Plan, closed: Iterable[ClosedPartition], start: RunStart) -> Manifest:
    """Write the run's report and manifest; return the manifest."""
    partitions = sorted(closed, key=lambda one: one.result.partition)
    results = {one.result.partition: one.result for one in partitions}
    outcomes = [outcome for one in partitions for outcome in one.outcomes]
    phases = _phases(start, outcomes)
    manifest = build_manifest(plan, results, start.time, outcomes, start.options, phases)
    if start.report:
        manifest = _report(plan, manifest, start.facts)
    write_manifest(plan.options.output, manifest)
    return manifest


def _report(plan: Plan, manifest: Manifest, facts: ModelFacts) -> Manifest:
    """Write the report; return the manifest, which says so where that failed."""
    try:
        # Not before: plotting and testing need libraries that no other part of a run loads.
        from pipelines.annotate.report.write import write_report

        return dataclasses.replace(manifest, report=write_report(plan, manifest, facts))
    except Exception as error:
        # What was annotated and published is as good without a page about it.
        warning = f"the report could not be written: {reason_of(error)}"
        return dataclasses.replace(manifest, warnings=[*manifest.warnings, warning])


def _phases(start: RunStart, outcomes: Sequence[ShardOutcome]) -> dict[str, float]:
    """Seconds by what the run did; publishing begins where the last shard was committed."""
    now = datetime.now(timezone.utc).timestamp()
    planned = (start.planned or start.time).timestamp()
    phases = {"listing and planning": planned - start.time.timestamp()}
    began = min((one.began for one in outcomes if one.began), default=0.0)
    ended = max((one.ended for one in outcomes), default=0.0)
    if began:
        phases |= {"starting, loading the model": began - planned, "annotating": ended - began}
    phases["publishing"] = now - max(ended, planned)
    return {name: round(max(0.0, seconds), 3) for name, seconds in phases.items()}


def close_here(plan: Plan, outcomes: Sequence[ShardOutcome], start: RunStart) -> Manifest:
    """Publish what was computed and what a killed run left committed, prune, write the manifest."""
    failed = {file.source_file for file in plan.failed_files}
    failed |= {outcome.source_file for outcome in outcomes if outcome.failure is not None}
    closed = [
        close_partition(
            plan.options,
            task,
            [outcome for outcome in outcomes if outcome.partition == task.partition],
            sorted(failed),
        )
        for task in partitions_to_publish(plan)
    ]
    return close_run(plan, closed, start)


def run_here(plan: Plan, start: RunStart) -> Manifest:
    """Compute and publish what is planned in this process, as the pipeline does on an engine."""
    with show_progress(plan):
        outcomes = [o for unit in plan.units for o in compute(unit, plan.options)]
        return close_here(plan, outcomes, start)
