"""The annotate job in this process, one work unit after the other; needs no Beam."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.annotate.finish import RunStart, close_here
from pipelines.annotate.plan import JobOptions, Plan, ShardOutcome, WorkUnit
from pipelines.annotate.progress import show_progress
from pipelines.annotate.work.checks import check_worker
from schemas.manifest import Manifest


def run_here(plan: Plan, start: RunStart) -> Manifest:
    """Compute and publish what is planned, as the pipeline does on an engine."""
    with show_progress(plan):
        outcomes = [o for unit in plan.units for o in compute(unit, plan.options)]
        return close_here(plan, outcomes, start)


def compute(unit: WorkUnit, options: JobOptions) -> Iterator[ShardOutcome]:
    """A work unit's outcomes, on a worker where everything is as planned."""
    check_worker(options)
    # Not before, and not on a client whose workers are elsewhere: it brings the model along.
    from pipelines.annotate.work.unit import annotate_unit

    yield from annotate_unit(unit, options)
