"""The annotate job as a Beam pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.transforms.resources import parse_resource_hints

from pipelines.annotate.engines.faults import (
    cancelled_on_faults,
    faults_told,
    forget_faults,
)
from pipelines.annotate.engines.runners import choose_runner, run_pipeline
from pipelines.annotate.job import JobOptions, Plan, ShardOutcome, WorkUnit
from pipelines.annotate.progress import show_progress
from pipelines.annotate.run_steps import (
    ClosedPartition,
    RunStart,
    close_partition,
    close_run,
    compute,
    partitions_to_publish,
)
from pipelines.storage.files import open_store
from schemas.errors import DRFError, UsageError


def build(
    pipeline: beam.Pipeline,
    plan: Plan,
    start: RunStart,
    resource_hints: Mapping[str, str | None] | None = None,
) -> None:
    """Add the job to `pipeline`: work units -> outcomes -> published partitions -> manifest.

    Nothing but descriptors and counts crosses a shuffle. A shard is committed by the worker
    that computed it, before any barrier; what waits is only the publishing.

    resource_hints: Beam's, by name, for the step that annotates: a GPU costs as much while a
    partition is published.
    """
    outcomes = (
        pipeline
        | "WorkUnits" >> beam.Create(list(plan.units))
        | "SpreadOverWorkers" >> beam.Reshuffle()
        | "Annotate"
        >> beam.ParDo(_AnnotateWorkUnit(plan.options)).with_resource_hints(**(resource_hints or {}))
    )
    failed_files = (
        outcomes
        | "Failures" >> beam.Filter(lambda outcome: outcome.failure is not None)
        | "FailedFiles" >> beam.Map(lambda outcome: outcome.source_file)
    )
    outcomes_by_partition = outcomes | "KeyOutcomes" >> beam.Map(lambda o: (o.partition, o))
    tasks = pipeline | "Partitions" >> beam.Create(
        [(task.partition, task) for task in partitions_to_publish(plan)]
    )
    closed = (
        {"outcomes": outcomes_by_partition, "task": tasks}
        | "WaitForShards" >> beam.CoGroupByKey()
        | "Publish" >> beam.ParDo(_PublishPartition(plan), beam.pvalue.AsList(failed_files))
    )
    _ = (
        closed
        | "Collect" >> beam.combiners.ToList()
        | "WriteManifest" >> beam.Map(lambda partitions: close_run(plan, partitions, start))
    )


def run(plan: Plan, start: RunStart, options: PipelineOptions) -> None:
    """Run the job to its end, on the runner that `options` ask for.

    Raises JobError, one line, where it fails; what was committed until then stays, and the
    next run goes on from there. UsageError where a --resource_hint is none.
    """
    hints = _take_resource_hints(options)
    pipeline = beam.Pipeline(runner=choose_runner(options), options=options)
    build(pipeline, plan, start, hints)
    store, run_id = open_store(plan.options.output), plan.options.run_id
    forget_faults(store, run_id)
    try:
        with show_progress(plan):
            run_pipeline(pipeline, run_id, partial(cancelled_on_faults, store, run_id))
    finally:
        with contextlib.suppress(DRFError):
            forget_faults(store, run_id)


def _take_resource_hints(options: PipelineOptions) -> dict[str, str | None]:
    """Take from `options` what --resource_hint asks for; Beam would ask it of every step."""
    standard = options.view_as(StandardOptions)
    assignments, standard.resource_hints = standard.resource_hints, []
    parts = (assignment.partition("=") for assignment in assignments)
    hints = {name: value or None for name, _, value in parts}
    try:
        parse_resource_hints(hints)
    except ValueError as error:
        raise UsageError(f"--resource_hint: {error}") from error
    return hints


class _AnnotateWorkUnit(beam.DoFn):
    """A WorkUnit -> a ShardOutcome for each of its shards.

    Descriptors go in and counts come out; rows go straight to the staged parts. What can
    never be computed is an outcome with a failure; what may pass is raised, for the engine
    to try again.
    """

    def __init__(self, options: JobOptions) -> None:
        self._options = options

    def process(self, unit: WorkUnit) -> Iterator[ShardOutcome]:
        options = self._options
        with faults_told(open_store(options.output), options.run_id):
            yield from compute(unit, options)


class _PublishPartition(beam.DoFn):
    """(partition, its outcomes and task) -> ClosedPartition."""

    def __init__(self, plan: Plan) -> None:
        self._options = plan.options
        self._failed_files = [file.source_file for file in plan.failed_files]

    def process(
        self, keyed: tuple[str, dict[str, Iterable[Any]]], failed_files: list[str]
    ) -> Iterator[ClosedPartition]:
        _, group = keyed
        outcomes: list[ShardOutcome] = list(group["outcomes"])
        for task in group["task"]:
            failed = sorted({*self._failed_files, *failed_files})
            yield close_partition(self._options, task, outcomes, failed)
