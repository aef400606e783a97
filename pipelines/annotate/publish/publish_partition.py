"""Publishing a partition: from committed shards to parts that readers can rely on.

One publisher at a time decides, under the partition's lock, what the partition shall hold,
from the ledger and the commit records as they are now, not as they were when the run was
planned: another run may have published meanwhile. Then it declares that as an intent and
carries it out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipelines.annotate.output.ledger import Ledger, UnpublishedFile, sum_counts
from pipelines.annotate.output.locks import Lock, partition_lock
from pipelines.annotate.output.partitions import PartitionState, PartitionTask, read_partition
from pipelines.annotate.plan import JobOptions
from pipelines.annotate.publish.decide import Decision, FileResult, decide
from pipelines.annotate.publish.intents import (
    Intent,
    PublishError,
    carry_out,
    declare,
    replay_intent,
)
from pipelines.storage.files import Store, open_store


@dataclass(frozen=True)
class PartitionResult:
    """What became of a partition.

    status: published or up_to_date (it says _SUCCESS), failed (it has failed files),
    incomplete (something else is missing), held_back (nothing was changed). files: by
    source_file, those of the task. message: why it is not complete.
    """

    partition: str
    status: str
    files: Mapping[str, FileResult] = field(default_factory=dict)
    pruned: tuple[str, ...] = ()
    message: str | None = None
    warnings: tuple[str, ...] = ()


def publish_partition(
    options: JobOptions,
    task: PartitionTask,
    failures: Mapping[str, str] | None = None,
    withhold: str | None = None,
) -> PartitionResult:
    """Publish what is committed of a partition's files; can be repeated and killed anywhere.

    failures: by source_file, why a worker says that a shard of it can never be committed.
    withhold: why nothing of this partition is to be published (--strict and a failed file).
    A file that failed, or that changed since it was planned, keeps its earlier parts.
    Raises PublishError where the parts cannot be proven, LockError where another run keeps
    publishing the partition.
    """
    problems = _known_problems(task, failures or {})
    if withhold is not None:
        return PartitionResult(
            task.partition, "held_back", _results(task, problems, "held_back"), message=withhold
        )
    store = open_store(options.output)
    with partition_lock(store, task.partition) as lock:
        warnings = tuple(replay_intent(store, task.partition, lock))
        state = read_partition(store, task.partition)
        _check_labels(state, options, task.partition)
        wanted = decide(store, options, task, state, problems)
        changed = wanted.changes(state)
        held_back = _too_many_dead_letters(wanted.ledger, options.max_dead_letter_share)
        if changed and held_back:
            files = _results(task, wanted.problems, "held_back")
            return PartitionResult(
                task.partition, "held_back", files, message=held_back, warnings=warnings
            )
        if changed:
            _publish(store, task.partition, wanted, lock)
    status, message = _status(wanted, changed)
    files = _results(task, wanted.problems, "up_to_date", wanted.updated)
    return PartitionResult(task.partition, status, files, wanted.pruned, message, warnings)


def _publish(store: Store, partition: str, wanted: Decision, lock: Lock) -> None:
    intent = Intent(
        partition=partition,
        ledger=wanted.ledger,
        moves=wanted.moves,
        remove=wanted.remove,
        keys=wanted.keys,
        complete=wanted.complete,
    )
    declare(store, intent, lock)
    carry_out(store, intent, lock)


def _check_labels(state: PartitionState, options: JobOptions, partition: str) -> None:
    ledger = state.ledger
    if ledger and ledger.files and ledger.labels != options.labels:
        raise PublishError(
            f"partition {partition or '(none)'} meanwhile holds annotations with the labels "
            f"{', '.join(ledger.labels)}, this run's model has {', '.join(options.labels)}; "
            "choose another output"
        )


def _too_many_dead_letters(ledger: Ledger, most: float) -> str | None:
    rows = sum(file.rows for file in ledger.files.values())
    dead = sum(file.dead_letters for file in ledger.files.values())
    if dead <= most * rows:
        return None
    counts = sum_counts(shard.counts for file in ledger.files.values() for shard in file.shards)
    reasons = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.dead_letter_reasons.items()))
    return (
        f"held back: {dead:,} of {rows:,} posts are dead letters ({dead / rows:.1%}: {reasons}), "
        f"more than --max-dead-letter-share {most:g}; look at the input, or run again with a "
        "higher share (within 7 days nothing is annotated twice)"
    )


def _status(wanted: Decision, changed: bool) -> tuple[str, str | None]:
    """Return the partition's status, and why it is not complete."""
    unpublished = wanted.ledger.unpublished
    if unpublished:
        incomplete = all(
            name in wanted.problems and wanted.problems[name].status == "incomplete"
            for name in unpublished
        )
        return "incomplete" if incomplete else "failed", why_unpublished(unpublished)
    if wanted.strangers:
        return "incomplete", (
            f"no _SUCCESS: {len(wanted.strangers)} parts are of input files that its ledger does "
            f"not know, such as {wanted.strangers[0]}; give those inputs too, or delete the parts"
        )
    if wanted.lost:
        return "incomplete", (
            f"no _SUCCESS: published parts of {', '.join(wanted.lost)} are gone or damaged; "
            "run again with that input"
        )
    return "published" if changed else "up_to_date", None


def why_unpublished(unpublished: Mapping[str, UnpublishedFile]) -> str:
    """Return why a partition is not complete. unpublished: of its ledger, not empty."""
    first = next(iter(unpublished.values())).error
    more = f" (and {len(unpublished) - 1} more files)" if len(unpublished) > 1 else ""
    return f"no _SUCCESS: {first}{more}"


def _known_problems(task: PartitionTask, failures: Mapping[str, str]) -> dict[str, FileResult]:
    problems = {file.source_file: FileResult("failed", file.error) for file in task.failed}
    for file in task.files:
        if file.source_file in failures:
            problems[file.source_file] = FileResult("failed", failures[file.source_file])
    return problems


def _results(
    task: PartitionTask,
    problems: Mapping[str, FileResult],
    otherwise: str,
    published: Collection[str] = (),
) -> dict[str, FileResult]:
    results = {
        file.source_file: FileResult("published" if file.source_file in published else otherwise)
        for file in task.files
    }
    return {**results, **problems}
