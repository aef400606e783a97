"""Publishing a partition: from committed shards to parts that readers can rely on.

One publisher at a time decides, under the partition's lock, what the partition shall hold,
from the ledger and the commit records as they are now, not as they were when the run was
planned: another run may have published meanwhile. Then it declares that as an intent and
carries it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipelines import layout
from pipelines.inputs import open_input, read_footer
from pipelines.intents import Intent, Move, PublishError, carry_out, declare, replay_intent
from pipelines.ledger import Ledger, LedgerFile, ShardEntry, UnpublishedFile, sum_counts
from pipelines.locking import Lock, partition_lock
from pipelines.partitions import (
    FileTask,
    PartitionState,
    PartitionTask,
    gone,
    read_partition,
    remembered,
)
from pipelines.plan import JobOptions
from pipelines.staging import CommitRecord, find_commit
from pipelines.store import Store, in_parallel, open_store, reason_of, redact
from schemas.errors import DRFError


@dataclass(frozen=True)
class FileResult:
    """What became of one input file; status as in the manifest. error: one readable line."""

    status: str
    error: str | None = None


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
        wanted = _decide(store, options, task, state, problems)
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


@dataclass(frozen=True)
class _Wanted:
    """What a partition shall hold, and what of the task could not be had.

    problems: the files of the task that are not published, by source_file. updated: those
    that are, and were not. strangers: parts of input files that the ledger does not know.
    lost: published files some of whose parts are missing or damaged.
    """

    ledger: Ledger
    moves: tuple[Move, ...]
    remove: tuple[str, ...]
    keys: tuple[str, ...]
    problems: Mapping[str, FileResult]
    updated: frozenset[str]
    pruned: tuple[str, ...]
    strangers: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.ledger.unpublished or self.strangers or self.lost)

    def changes(self, state: PartitionState) -> bool:
        """Whether anything is to be done to get there."""
        before = state.ledger or Ledger(self.ledger.labels)
        same = dataclasses.replace(self.ledger, duplicate_ids=before.duplicate_ids) == before
        if state.ledger is None and not (self.ledger.files or self.remove):
            # Nothing but failed files, in a partition that never was: leave no trace of it.
            return state.says_success()
        success = state.succeeded() if self.complete else not state.says_success()
        return not (same and success and state.ledger) or bool(self.moves or self.remove)


def _decide(
    store: Store,
    options: JobOptions,
    task: PartitionTask,
    state: PartitionState,
    known_problems: Mapping[str, FileResult],
) -> _Wanted:
    before = state.ledger or Ledger(options.labels)
    files = dict(before.files)
    problems = dict(known_problems)
    moves: list[Move] = []
    updated = set()
    wanted = [file for file in task.files if file.source_file not in problems]
    commits = _find_commits(store, wanted, state)
    for file in wanted:
        entries, added, missing = _gather(file, state, commits)
        old = files.get(file.source_file)
        if missing:
            problems[file.source_file] = FileResult(
                "incomplete",
                f"{missing} of {len(file.shards)} shards are not annotated yet; run again",
            )
        elif old is None or added or (old.path, old.shards) != (redact(file.path), entries):
            rows, problem = _look_at_input(file)
            if problem:
                problems[file.source_file] = FileResult("failed", problem)
                continue
            moves += added
            updated.add(file.source_file)
            files[file.source_file] = LedgerFile(redact(file.path), file.identity, rows, entries)
    pruned = tuple(name for name in task.prune if name in files and gone(files[name].path))
    for name in pruned:
        del files[name]
    ledger = Ledger(options.labels, files, _unpublished(task, before, problems))
    known = {*before.files, *task.named()}
    others = state.parts() - ledger.names() - before.names()
    strangers = {part for part in others if not any(layout.is_part_of(part, f) for f in known)}
    here = {move.name for move in moves}
    lost = {
        name
        for name, file in files.items()
        if any(entry.name not in here and not state.holds(entry) for entry in file.shards)
    }
    return _Wanted(
        ledger=ledger,
        moves=tuple(moves),
        remove=tuple(sorted((state.parts() | before.names()) - ledger.names() - strangers)),
        keys=tuple(shard.key for f in task.files if f.source_file in files for shard in f.shards),
        problems=problems,
        updated=frozenset(updated),
        pruned=pruned,
        strangers=tuple(sorted(strangers)),
        lost=tuple(sorted(lost)),
    )


def _find_commits(
    store: Store, files: Iterable[FileTask], state: PartitionState
) -> dict[str, CommitRecord]:
    shards = [s for file in files for s in file.shards if state.published(s) is None]
    records = in_parallel(lambda shard: find_commit(store, shard.key), shards)
    return {record.entry.key: record for record in records if record is not None}


def _gather(
    file: FileTask, state: PartitionState, commits: Mapping[str, CommitRecord]
) -> tuple[tuple[ShardEntry, ...], list[Move], int]:
    """Return the file's entries, the moves that publish what is staged, and how many lack."""
    entries, moves, missing = [], [], 0
    for shard in file.shards:
        entry = state.published(shard)
        if entry is None:
            record = commits.get(shard.key)
            if record is None:
                missing += 1
                continue
            entry = record.entry
            moves.append(Move(file.source_file, entry.key, record.attempt, entry.name))
        entries.append(entry)
    return tuple(entries), moves, missing


def _look_at_input(file: FileTask) -> tuple[int, str | None]:
    """Return the rows of the input's footer as it is now, and why it cannot be published."""
    shown = redact(file.path)
    try:
        footer = read_footer(*open_input(file.path))
    except FileNotFoundError:
        return 0, f"{shown} was removed while it was annotated; run again"
    except DRFError as error:
        return 0, str(error)
    except Exception as error:
        return 0, f"{shown} cannot be read: {reason_of(error)}"
    if footer.identity != file.identity:
        return 0, f"{shown} was changed while it was annotated; run again"
    return footer.metadata.num_rows, None


def _unpublished(
    task: PartitionTask, before: Ledger, problems: Mapping[str, FileResult]
) -> dict[str, UnpublishedFile]:
    found = remembered(task, before)
    for name, path in task.paths().items():
        if name in problems:
            found[name] = UnpublishedFile(redact(path), problems[name].error or "")
    # What is known to fail already keeps its words: the ledger changes when the data does.
    return {name: before.unpublished.get(name, file) for name, file in sorted(found.items())}


def _publish(store: Store, partition: str, wanted: _Wanted, lock: Lock) -> None:
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
        "higher share (nothing is annotated twice)"
    )


def _status(wanted: _Wanted, changed: bool) -> tuple[str, str | None]:
    """Return the partition's status, and why it is not complete."""
    unpublished = wanted.ledger.unpublished
    if unpublished:
        incomplete = all(
            name in wanted.problems and wanted.problems[name].status == "incomplete"
            for name in unpublished
        )
        first = next(iter(unpublished.values())).error
        more = f" (and {len(unpublished) - 1} more files)" if len(unpublished) > 1 else ""
        return "incomplete" if incomplete else "failed", f"no _SUCCESS: {first}{more}"
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
