"""What a partition shall hold: from its ledger, what is committed, and what a run wants of it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipelines.annotate.output import layout
from pipelines.annotate.output.commits import CommitRecord
from pipelines.annotate.output.ledger import Ledger, LedgerFile, ShardEntry, UnpublishedFile
from pipelines.annotate.output.partitions import FileTask, PartitionState, PartitionTask
from pipelines.annotate.plan import JobOptions
from pipelines.posts.inputs import checksum_identity, input_gone, read_footer
from pipelines.posts.names import same_input
from pipelines.storage.backends import open_url
from pipelines.storage.files import in_parallel
from pipelines.storage.redaction import reason_of, redact
from schemas.errors import DRFError

_ORPHAN = "its input is gone and its posts are still published; --prune removes them"


@dataclass(frozen=True)
class FileResult:
    """What became of one input file; status as in the manifest. error: one readable line."""

    status: str
    error: str | None = None


@dataclass(frozen=True)
class Decision:
    """What a partition shall hold, and what could not be had.

    ledger: the state's own where it shall stay as it is. added: entries that it has and the
    one before had not, by source_file. problems: the files of the task that are not published
    as it wants them. strangers: parts of input files that the ledger does not know, which
    stay. lost: published files some of whose parts are missing or damaged.
    """

    ledger: Ledger
    added: Mapping[str, tuple[ShardEntry, ...]]
    problems: Mapping[str, FileResult]
    pruned: tuple[str, ...]
    strangers: tuple[str, ...]
    lost: tuple[str, ...]

    def changes(self, state: PartitionState) -> bool:
        """Whether anything is to be done for the partition to be so."""
        if state.ledger is None and not self.ledger.files:
            # Nothing but failed files, in a partition that never was: leave no trace of it.
            return state.says_success()
        return self.ledger != state.ledger or not state.settled()

    def wanting(self) -> bool:
        """Whether something is missing that another run may bring."""
        incomplete = any(problem.status == "incomplete" for problem in self.problems.values())
        return bool(incomplete or self.strangers or self.lost)


def decide(
    options: JobOptions,
    task: PartitionTask,
    state: PartitionState,
    failures: Mapping[str, str],
    commits: Mapping[str, CommitRecord],
) -> Decision:
    """Return what a partition shall hold.

    failures: by source_file, why files of the task can never be published as they were
    planned; they keep their earlier parts. commits: by key, of the shards that the state does
    not hold. What is true now beats what was planned: a file that a newer plan published stays
    as it is, and what failed and is published as it is now has not failed.
    """
    before = state.ledger or Ledger(options.labels)
    publication = uuid.uuid4().hex[:16]
    files = dict(before.files)
    added: dict[str, tuple[ShardEntry, ...]] = {}
    problems = {file.source_file: FileResult("failed", file.error) for file in task.failed}
    problems |= {name: FileResult("failed", error) for name, error in failures.items()}
    for file in task.files:
        name, old = file.source_file, before.files.get(file.source_file)
        if name in problems:
            continue
        entries, new = _gather(file, state, commits, publication)
        shown = redact(file.path)
        if old is not None and (old.path, old.shards) == (shown, entries):
            continue
        if problem := _why_not(file, old, before, len(entries), options.planned_at):
            problems[name] = problem
            continue
        files[name] = LedgerFile(shown, file.identity, file.rows, entries, options.planned_at)
        added[name] = new
    changed = in_parallel(_why_changed, [f for f in task.files if f.source_file in added])
    for name, error in zip(list(added), changed, strict=True):
        if error is not None:
            problems[name] = FileResult("failed", error)
            del added[name], files[name]
            if name in before.files:
                files[name] = before.files[name]
    paths = task.paths()
    problems = {n: _now(p, paths[n], before.files.get(n)) for n, p in problems.items()}
    orphans = [name for name in task.orphans if name in files and gone(files[name].path)]
    pruned = tuple(orphans) if task.prune else ()
    for name in pruned:
        del files[name]
    known = {layout.file_mark(name) for name in (*before.files, *files)}
    names = {shard.name for file in files.values() for shard in file.shards}
    loose = state.parts() - names
    strangers = {n for n in loose if layout.mark_of(n) not in known and n not in before.dropped}
    ledger = Ledger(
        options.labels,
        files,
        _unpublished(paths, before, files, problems, () if task.prune else orphans),
        before.duplicate_ids,
        tuple(sorted((loose - strangers) | (before.entries().keys() - names))),
        options.kept if added else before.kept,
    )
    if dataclasses.replace(ledger, dropped=before.dropped) == before:
        # A ledger may name dropped parts that are gone by now; that is no reason for another.
        ledger = before if {*ledger.dropped} <= {*before.dropped} else ledger
    coming = {entry.name for entries in added.values() for entry in entries}
    lost = {
        name
        for name, file in files.items()
        if any(entry.name not in coming and not state.holds(entry) for entry in file.shards)
    }
    return Decision(ledger, added, problems, pruned, tuple(sorted(strangers)), tuple(sorted(lost)))


def _gather(
    file: FileTask, state: PartitionState, commits: Mapping[str, CommitRecord], publication: str
) -> tuple[tuple[ShardEntry, ...], tuple[ShardEntry, ...]]:
    """Return the file's entries that are published or committed, and those that are new."""
    entries, new = [], []
    for shard in file.shards:
        entry = state.published(shard)
        if entry is None and shard.key in commits:
            name = layout.part_name(file.source_file, shard.first_row, publication)
            entry = dataclasses.replace(commits[shard.key].entry, name=name)
            new.append(entry)
        if entry is not None:
            entries.append(entry)
    return tuple(entries), tuple(new)


def _why_not(
    file: FileTask, old: LedgerFile | None, before: Ledger, entries: int, planned_at: float
) -> FileResult | None:
    """Return why a file cannot take its place in the partition, None where it can."""
    name, shown = file.source_file, redact(file.path)
    # Planning refuses this; another run may have published meanwhile.
    if old is not None and displaces(old, file.path, file.identity):
        return FileResult(
            "failed",
            f"{shown} would replace the annotations of {old.path}, which has the same name; "
            "give the folder above both, or another output",
        )
    if old is not None and old.planned_at > planned_at:
        error = f"a run that was planned later has published {name}; it stays as that left it"
        return FileResult("overtaken", error)
    other = next((n for n, f in before.files.items() if n != name and f.path == shown), None)
    if other is not None:
        error = f"another run has published {shown} as {other}; run again"
        return FileResult("overtaken", error)
    if missing := len(file.shards) - entries:
        return FileResult(
            "incomplete",
            f"{name}: {missing} of {len(file.shards)} shards are not annotated yet; run again",
        )
    return None


def _why_changed(file: FileTask) -> str | None:
    """Return why a file cannot be published whose input is not as planned, None where it is."""
    shown = redact(file.path)
    try:
        if _identity(file.path, file.identity, file.rows) == file.identity:
            return None
    except FileNotFoundError:
        return f"{shown} was removed while it was annotated; run again"
    except DRFError as error:
        return str(error)
    except Exception as error:
        return f"{shown} cannot be read: {reason_of(error)}"
    return f"{shown} was changed while it was annotated; run again"


def _now(problem: FileResult, path: str, published: LedgerFile | None) -> FileResult:
    """Return what a problem is now: none of the partition's where its input is published."""
    if published is None or problem.status != "failed":
        return problem
    try:
        if _identity(path, published.identity, published.rows) == published.identity:
            error = f"another run has published {redact(path)} as it is now ({problem.error})"
            return FileResult("overtaken", error)
    except Exception:
        return problem
    return problem


def _identity(path: str, expected: str, rows: int) -> str:
    """Return the identity of an input as it is now, "" where its rows are not those expected."""
    fs, inner = open_url(path)
    if checksum_identity(fs, inner) == expected:
        return expected
    footer = read_footer(fs, inner)
    return footer.identity if footer.rows == rows else ""


def _unpublished(
    paths: Mapping[str, str],
    before: Ledger,
    files: Mapping[str, LedgerFile],
    problems: Mapping[str, FileResult],
    orphans: Collection[str],
) -> dict[str, UnpublishedFile]:
    """Return what keeps the partition from being complete, as far as its input is there.

    Also what earlier runs could not publish and this one does not name: the partition is not
    complete, whatever part of the input a run is given. paths: of the run's files.
    """
    wanting = {name: file for name, file in before.unpublished.items() if name not in paths}
    wanting |= {
        name: UnpublishedFile(redact(paths[name]), problem.error or "")
        for name, problem in problems.items()
        if problem.status != "overtaken"
    }
    wanting |= {name: UnpublishedFile(files[name].path, _ORPHAN, gone=True) for name in orphans}
    unpublished = {}
    # What is only not annotated yet was there just now: no request for each file of a first night.
    unfinished = {name for name, problem in problems.items() if problem.status == "incomplete"}
    for name, file in sorted(wanting.items()):
        if name not in unfinished and gone(paths.get(name, file.path)):
            if name not in files:
                continue
            file = UnpublishedFile(file.path, _ORPHAN, gone=True)
        elif file.gone:
            continue
        # What is known already keeps its words: the ledger changes when the data does.
        known = before.unpublished.get(name, file)
        unpublished[name] = known if known.gone == file.gone else file
    return unpublished


def gone(path: str) -> bool:
    """Whether an input file is surely not there any more."""
    try:
        return input_gone(path)
    except Exception:
        return False


def displaces(published: LedgerFile, path: str, identity: str | None = None) -> bool:
    """Whether a published file comes from another input of the same name, which is there still.

    Two spellings of a local path are one input; so are two copies of one content.
    """
    if identity == published.identity or same_input(published.path, path):
        return False
    return not gone(published.path)
