"""Publishing a partition: from committed shards to parts that readers can rely on.

What the partition shall hold is decided from its newest ledger and the commit records as they
are now, not as they were when the run was planned. What is added is proven, then the next
ledger is committed, on the condition that no other run was first, and then the folders are
brought to what it names. Killed anywhere, the next run goes on: there is no log to replay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from pipelines.annotate.job import JobOptions
from pipelines.annotate.output.clear_staging import clear_shards
from pipelines.annotate.output.commit_records import CommitRecord, find_commit
from pipelines.annotate.output.locks import partition_lock
from pipelines.annotate.output.partition_state import PartitionState, add_ledger, read_partition
from pipelines.annotate.output.verify_parts import count_duplicate_ids
from pipelines.annotate.publish.apply import OvertakenError, apply, clear_prepared
from pipelines.annotate.publish.decide import Decision, decide
from pipelines.annotate.publish.delta_table import mirror
from pipelines.annotate.publish.gates import what_to_look_at, why_held_back
from pipelines.annotate.publish.pack import ShardsAtFaultError, pack
from pipelines.annotate.publish.partition_tasks import PartitionTask
from pipelines.annotate.publish.results import FileResult, PartitionResult, why_unpublished
from pipelines.storage.files import OutputError, Store, in_parallel, open_store

# Of so many runs that publish one partition at once, each in turn commits first.
_TRIES = 20


class PublishError(OutputError):
    """A partition could not be published, or not be proven; it stays as it was."""


def publish_partition(
    options: JobOptions,
    task: PartitionTask,
    failures: Mapping[str, str] | None = None,
    withhold: str | None = None,
) -> PartitionResult:
    """Publish what is committed of a partition's files; can be repeated and killed anywhere.

    failures: by source_file, why a worker says that a shard of it can never be committed.
    withhold: why nothing of this partition is to be published (--strict and a failed file).
    A file that failed, or that changed since it was planned, keeps its earlier parts; one that
    a newer run has published stays as it is.
    Raises PublishError where the parts cannot be proven, LockError where another run keeps
    publishing the partition.
    """
    store, partition = open_store(options.output), task.partition
    named = {file.source_file for file in task.files}
    failures = {name: error for name, error in (failures or {}).items() if name in named}
    if withhold is not None:
        problems = {name: FileResult("failed", error) for name, error in failures.items()}
        problems |= {file.source_file: FileResult("failed", file.error) for file in task.failed}
        files = _results(task, problems, "held_back")
        return PartitionResult(partition, "held_back", files, message=withhold)
    published: set[str] = set()
    changed = False
    with partition_lock(store, partition):
        for _ in range(_TRIES):
            state = read_partition(store, partition)
            _check_labels(state, options, partition)
            decision = decide(options, task, state, failures, _find_commits(store, task, state))
            if not decision.changes(state):
                break
            if held_back := why_held_back(decision.ledger, options, task.usual):
                files = _results(task, decision.problems, "held_back")
                return PartitionResult(partition, "held_back", files, message=held_back)
            committed = _commit(store, partition, state, decision, options.part_bytes)
            if committed is None:
                continue
            published |= decision.added.keys()
            changed, state = True, committed
            try:
                apply(store, partition, state)
                break
            except OvertakenError:
                continue
        else:
            raise PublishError(f"partition {partition or '(none)'}: other runs keep publishing it")
        if options.table and state.ledger is not None and not decision.lost:
            mirror(store, partition, state.number, state.ledger)
        warnings = _clear(store, task, decision, state.number)
    if changed:
        look = what_to_look_at(decision.ledger, options, task.usual)
        warnings += tuple(f"{partition or 'all posts'}: {line}" for line in look)
    status, message = describe(decision, changed)
    overtaken = [p.error for p in decision.problems.values() if p.status == "overtaken" and p.error]
    return PartitionResult(
        partition,
        status,
        _results(task, decision.problems, "up_to_date", published),
        decision.pruned,
        message,
        (*warnings, *overtaken),
    )


def _find_commits(
    store: Store, task: PartitionTask, state: PartitionState
) -> dict[str, CommitRecord]:
    shards = [s for file in task.files for s in file.shards if state.published(s) is None]
    records = in_parallel(lambda shard: find_commit(store, shard.key), shards)
    return {record.entry.key: record for record in records if record is not None}


def _commit(
    store: Store, partition: str, state: PartitionState, decision: Decision, part_bytes: int
) -> PartitionState | None:
    """Write and prove what is added and commit the ledger; return the state then.

    None where another run changed it meanwhile. What cannot be proven is annotated anew by the
    next run.
    """
    if decision.ledger == state.ledger:
        return state
    number = state.number + 1
    try:
        added, moved = decision.added, decision.moved
        packed = pack(store, partition, state, decision.ledger, added, moved, part_bytes)
        ledger = packed.in_ledger(decision.ledger)
        new = {(tree, name) for tree, parts in packed.parts.items() for name in parts}
        named = {(tree, name) for tree, parts in ledger.parts.items() for name in parts}
        after = PartitionState(number, ledger, state.sizes, state.staged & named | new)
        parts = {
            after.place(partition, tree, name): ledger.parts[tree][name]
            for tree, name in named
            if after.holds(name)
        }
        duplicates = count_duplicate_ids(store, parts, packed.hashes)
    except OutputError as error:
        # Another run takes away what this one reads, or has brought it to its folder.
        if read_partition(store, partition) != state:
            return None
        if isinstance(error, ShardsAtFaultError):
            clear_shards(store, error.faults)
        raise PublishError(
            f"partition {partition or '(none)'} is not published, the proof failed: {error}; "
            "run again, what failed is annotated anew"
        ) from error
    ledger = dataclasses.replace(ledger, duplicate_ids=duplicates)
    if not add_ledger(store, partition, number, ledger):
        packed.discard()
        return None
    return dataclasses.replace(after, ledger=ledger)


def _clear(store: Store, task: PartitionTask, decision: Decision, number: int) -> tuple[str, ...]:
    """Clear the staging folder of what is published; return warnings: it is not worth a failure."""
    files = [file for file in task.files if file.source_file not in decision.problems]
    try:
        clear_prepared(store, task.partition, number)
        clear_shards(store, {shard.key for file in files for shard in file.shards})
    except OutputError as error:
        return (f"what is published is not cleared from the staging folder yet: {error}",)
    return ()


def _check_labels(state: PartitionState, options: JobOptions, partition: str) -> None:
    ledger = state.ledger
    if ledger and ledger.files and ledger.labels != options.labels:
        raise PublishError(
            f"partition {partition or '(none)'} meanwhile holds annotations with the labels "
            f"{', '.join(ledger.labels)}, this run's model has {', '.join(options.labels)}; "
            "choose another output"
        )


def describe(decision: Decision, changed: bool) -> tuple[str, str | None]:
    """Return the status of a partition that is as was decided, and why it is not complete."""
    unpublished = decision.ledger.unpublished
    if decision.lost:
        return "incomplete", (
            f"no _SUCCESS: published parts of {', '.join(decision.lost)} are gone or damaged; "
            "run again with that input"
        )
    if decision.problems.keys() & unpublished.keys() and all(
        decision.problems[name].status == "incomplete"
        for name in unpublished
        if name in decision.problems
    ):
        return "incomplete", why_unpublished(unpublished)
    if unpublished and all(file.gone for file in unpublished.values()):
        return "orphaned", why_unpublished(unpublished)
    if unpublished:
        return "failed", why_unpublished(unpublished)
    return "published" if changed else "up_to_date", None


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
