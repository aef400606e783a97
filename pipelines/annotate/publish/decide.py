"""What a partition shall hold: from its ledger, what is committed, and what a run wants of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipelines.annotate.job import JobOptions
from pipelines.annotate.output.commit_records import CommitRecord
from pipelines.annotate.output.ledger import Ledger, LedgerFile, ShardEntry, UnpublishedFile
from pipelines.annotate.output.partition_state import PartitionState
from pipelines.annotate.publish.partition_tasks import FileTask, PartitionTask
from pipelines.annotate.publish.results import FileResult
from pipelines.posts.inputs import checksum_identity, for_each_input, input_gone, read_footer
from pipelines.posts.names import same_input
from pipelines.storage.backends import open_url
from pipelines.storage.redaction import reason_of, redact
from schemas.errors import DRFError

# So many parts of less than half the size that they may have are left as they are: a file that
# comes alone needs no other rows written anew, and a thousand of them are no thousand parts.
_MOST_SMALL = 3

_LOST = "its published part was gone or damaged; run again with that input"
_ORPHAN = "its input is gone and its posts are still published; --prune removes them"


@dataclass(frozen=True)
class Decision:
    """What a partition shall hold, and what could not be had.

    ledger: the state's own where it shall stay as it is; its shards that are to be written into
    new parts have none yet. added: by source_file, the commits that it has and the one before
    had not. moved: parts of which other shards go, and small ones that are written anew together
    with what is added. problems: the files of the task that are not published as it wants them.
    lost: published files some of whose parts are missing or damaged.
    """

    ledger: Ledger
    added: Mapping[str, tuple[CommitRecord, ...]]
    moved: tuple[str, ...]
    problems: Mapping[str, FileResult]
    pruned: tuple[str, ...]
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
        return bool(incomplete or self.lost)


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
    files = dict(before.files)
    added: dict[str, tuple[CommitRecord, ...]] = {}
    problems = {file.source_file: FileResult("failed", file.error) for file in task.failed}
    problems |= {name: FileResult("failed", error) for name, error in failures.items()}
    for file in task.files:
        name, old = file.source_file, before.files.get(file.source_file)
        if name in problems:
            continue
        entries, new = _gather(file, state, commits)
        shown = redact(file.path)
        if old is not None and (old.path, old.shards) == (shown, entries):
            continue
        if problem := _why_not(file, old, before, len(entries), options.planned_at):
            problems[name] = problem
            continue
        files[name] = LedgerFile(shown, file.identity, file.rows, entries, options.planned_at)
        added[name] = new
    planned = {file.path: file for file in task.files if file.source_file in added}
    changed = for_each_input(lambda path: _why_changed(planned[path]), planned)
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
    lost = _drop_what_is_cut(state, before, files)
    moved = _to_be_moved(state, before, files, bool(added), options.part_bytes)
    files = {name: _less(file, moved) for name, file in files.items()}
    left = Ledger(options.labels, files).shards_of_parts()
    parts = {
        tree: {name: part for name, part in parts.items() if name in left}
        for tree, parts in before.parts.items()
    }
    unpublished = _unpublished(paths, before, files, problems, lost, () if task.prune else orphans)
    kept = options.kept if added else before.kept
    ledger = Ledger(options.labels, files, parts, unpublished, before.duplicate_ids, kept)
    lost |= {name for part, shards in left.items() if not state.holds(part) for name, _ in shards}
    return Decision(ledger, added, moved, problems, pruned, tuple(sorted(lost)))


def _drop_what_is_cut(
    state: PartitionState, before: Ledger, files: dict[str, LedgerFile]
) -> set[str]:
    """Take files away whose part is damaged, and cannot stay as other shards of it go.

    Returns their names: what else the part had of them cannot be told from what goes.
    """
    whole, lost = before.shards_of_parts(), set()
    while cut := {
        name
        for part, shards in Ledger((), files).shards_of_parts().items()
        if len(shards) < len(whole[part]) and not state.holds(part)
        for name, _ in shards
    }:
        lost |= cut
        for name in cut:
            del files[name]
    return lost


def _to_be_moved(
    state: PartitionState,
    before: Ledger,
    files: Mapping[str, LedgerFile],
    more: bool,
    part_bytes: int,
) -> tuple[str, ...]:
    """Return the parts whose shards in files are to be written into new parts.

    more: whether there is something else to write.
    """
    whole = before.shards_of_parts()
    left = Ledger((), dict(files)).shards_of_parts()
    moved = {part for part, shards in left.items() if len(shards) < len(whole[part])}
    small = {
        part
        for part in left
        if part not in moved and state.holds(part) and before.bytes_of(part) < part_bytes / 2
    }
    if (more or moved) and len(small) >= _MOST_SMALL:
        moved |= small
    return tuple(sorted(moved))


def _less(file: LedgerFile, parts: Collection[str]) -> LedgerFile:
    """Return the file, its shards in none of the parts."""
    if not any(shard.part in parts for shard in file.shards):
        return file
    shards = (dataclasses.replace(s, part="") if s.part in parts else s for s in file.shards)
    return dataclasses.replace(file, shards=tuple(shards))


def _gather(
    file: FileTask, state: PartitionState, commits: Mapping[str, CommitRecord]
) -> tuple[tuple[ShardEntry, ...], tuple[CommitRecord, ...]]:
    """Return the file's shards that are published or committed, and those that are new."""
    entries, new = [], []
    for shard in file.shards:
        entry = state.published(shard)
        if entry is None and shard.key in commits:
            new.append(commits[shard.key])
            entry = new[-1].entry
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
    lost: Collection[str],
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
    wanting |= {name: UnpublishedFile(before.files[name].path, _LOST) for name in lost}
    orphans = [name for name in orphans if name in files]
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
