"""The annotate job as a Beam pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.closing import (
    ClosedPartition,
    RunStart,
    close_partition,
    close_run,
    partitions_to_publish,
)
from pipelines.plan import Plan, ShardOutcome
from pipelines.progress import show_progress
from pipelines.runners import choose_runner, run_pipeline
from pipelines.work_unit import AnnotateWorkUnit


def build(pipeline: beam.Pipeline, plan: Plan, start: RunStart) -> None:
    """Add the job to `pipeline`: work units -> outcomes -> published partitions -> manifest.

    Nothing but descriptors and counts crosses a shuffle. A shard is committed by the worker
    that computed it, before any barrier; what waits is only the publishing.
    """
    outcomes = (
        pipeline
        | "WorkUnits" >> beam.Create(list(plan.units))
        | "SpreadOverWorkers" >> beam.Reshuffle()
        | "Annotate" >> beam.ParDo(AnnotateWorkUnit(plan.options))
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
    next run goes on from there.
    """
    pipeline = beam.Pipeline(runner=choose_runner(options), options=options)
    build(pipeline, plan, start)
    with show_progress(plan):
        run_pipeline(pipeline)


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
