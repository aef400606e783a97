"""What a partition shall hold: from its ledger, what is committed, and what a run wants of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.annotate.output import layout
from pipelines.annotate.output.commits import CommitRecord, find_commit
from pipelines.annotate.output.ledger import Ledger, LedgerFile, ShardEntry, UnpublishedFile
from pipelines.annotate.output.partitions import (
    FileTask,
    PartitionState,
    PartitionTask,
    displaces,
    gone,
    remembered,
)
from pipelines.annotate.plan import JobOptions
from pipelines.annotate.publish.intents import Move
from pipelines.posts.inputs import checksum_identity, read_footer
from pipelines.storage.backends import open_url
from pipelines.storage.files import Store, in_parallel
from pipelines.storage.redaction import reason_of, redact
from schemas.errors import DRFError


@dataclass(frozen=True)
class FileResult:
    """What became of one input file; status as in the manifest. error: one readable line."""

    status: str
    error: str | None = None


@dataclass(frozen=True)
class Decision:
    """What a partition shall hold, how it gets there, and what could not be had.

    moves, remove: the parts that come and go. keys: shards whose staged remains go.
    problems: the files of the task that are not published, by source_file. updated: those
    that are, and were not. strangers: parts of input files that the ledger does not know,
    which stay. lost: published files some of whose parts are missing or damaged.
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
        """Whether the partition may say _SUCCESS."""
        return not (self.ledger.unpublished or self.strangers or self.lost)

    def changes(self, state: PartitionState) -> bool:
        """Whether anything is to be done to get there."""
        if self.moves or self.remove:
            return True
        if state.ledger is None and not self.ledger.files:
            # Nothing but failed files, in a partition that never was: leave no trace of it.
            return state.says_success()
        if state.says_success() != self.complete or state.succeeded() != self.complete:
            return True
        before = state.ledger or Ledger(self.ledger.labels)
        return dataclasses.replace(self.ledger, duplicate_ids=before.duplicate_ids) != before


def decide(
    store: Store,
    options: JobOptions,
    task: PartitionTask,
    state: PartitionState,
    known_problems: Mapping[str, FileResult],
) -> Decision:
    """Return what the partition shall hold; to be called under its lock.

    known_problems: files of the task that failed already; they keep their earlier parts.
    """
    before = state.ledger or Ledger(options.labels)
    files = dict(before.files)
    problems = dict(known_problems)
    moves: list[Move] = []
    updated: dict[str, FileTask] = {}
    sound = [file for file in task.files if file.source_file not in problems]
    commits = _find_commits(store, sound, state)
    for file in sound:
        old = before.files.get(file.source_file)
        if old is not None and displaces(old, file.path, file.identity):
            # Planning refuses this; another run may have published meanwhile.
            problems[file.source_file] = FileResult(
                "failed",
                f"{redact(file.path)} would replace the annotations of {old.path}, which has "
                "the same name; give the folder above both, or another output",
            )
            continue
        entries, added, missing = _gather(file, state, commits)
        shown = redact(file.path)
        if missing:
            problems[file.source_file] = FileResult(
                "incomplete",
                f"{file.source_file}: {missing} of {len(file.shards)} shards are not annotated "
                "yet; run again",
            )
            continue
        if added or old is None or (old.path, old.shards) != (shown, entries):
            updated[file.source_file] = file
            files[file.source_file] = LedgerFile(shown, file.identity, file.rows, entries)
            moves += added
    changed = _find_changed(updated.values())
    for name, problem in changed.items():
        del updated[name], files[name]
        if name in before.files:
            files[name] = before.files[name]
        problems[name] = FileResult("failed", problem)
    pruned = tuple(name for name in task.prune if name in files and gone(files[name].path))
    for name in pruned:
        del files[name]
    moves = [move for move in moves if move.source_file in updated]
    ledger = Ledger(options.labels, files, _unpublished(task, before, problems))
    strangers = _find_strangers(state, {*before.files, *files})
    return Decision(
        ledger=ledger,
        moves=tuple(moves),
        remove=tuple(sorted((state.parts() | before.names()) - ledger.names() - strangers)),
        keys=tuple(s.key for f in sound if f.source_file not in problems for s in f.shards),
        problems=problems,
        updated=frozenset(updated),
        pruned=pruned,
        strangers=tuple(sorted(strangers)),
        lost=tuple(sorted(_find_lost(state, files, moves))),
    )


def _find_strangers(state: PartitionState, known: Iterable[str]) -> set[str]:
    """Return the parts of input files that are not known."""
    marks = {layout.file_mark(source_file) for source_file in known}
    return {part for part in state.parts() if layout.mark_of(part) not in marks}


def _find_lost(
    state: PartitionState, files: Mapping[str, LedgerFile], moves: Iterable[Move]
) -> set[str]:
    """Return the files with a part that neither is there nor comes."""
    coming = {move.name for move in moves}
    return {
        name
        for name, file in files.items()
        if any(entry.name not in coming and not state.holds(entry) for entry in file.shards)
    }


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


def _find_changed(files: Iterable[FileTask]) -> dict[str, str]:
    """Return, by source_file, why files cannot be published whose input is not as planned.

    An input that was replaced meanwhile may have been published by another run already.
    """
    files = list(files)
    problems = in_parallel(_why_changed, files)
    return {f.source_file: why for f, why in zip(files, problems, strict=True) if why}


def _why_changed(file: FileTask) -> str | None:
    shown = redact(file.path)
    try:
        fs, path = open_url(file.path)
        if checksum_identity(fs, path) == file.identity:
            return None
        footer = read_footer(fs, path)
    except FileNotFoundError:
        return f"{shown} was removed while it was annotated; run again"
    except DRFError as error:
        return str(error)
    except Exception as error:
        return f"{shown} cannot be read: {reason_of(error)}"
    if footer.identity != file.identity or footer.rows != file.rows:
        return f"{shown} was changed while it was annotated; run again"
    return None


def _unpublished(
    task: PartitionTask, before: Ledger, problems: Mapping[str, FileResult]
) -> dict[str, UnpublishedFile]:
    found = remembered(task, before)
    for name, path in task.paths().items():
        if name in problems:
            found[name] = UnpublishedFile(redact(path), problems[name].error or "")
    # What is known to fail already keeps its words: the ledger changes when the data does.
    return {name: before.unpublished.get(name, file) for name, file in sorted(found.items())}
