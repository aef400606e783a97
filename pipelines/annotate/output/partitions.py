"""One partition: what a run wants of it, what it holds, and whether the two agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import (
    Ledger,
    LedgerFile,
    ShardEntry,
    UnpublishedFile,
    read_ledger,
)
from pipelines.annotate.plan import Plan, Shard
from pipelines.posts.files import FailedFile
from pipelines.posts.inputs import input_gone
from pipelines.posts.names import partition_of, same_input
from pipelines.storage.files import Store, in_parallel
from pipelines.storage.redaction import redact


@dataclass(frozen=True)
class FileTask:
    """An input file that a run wants published. rows: by its footer when it was planned."""

    path: str
    source_file: str
    identity: str
    rows: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class PartitionTask:
    """What a run wants of a partition.

    files: to be published. failed: what could not be read. prune: source files whose parts
    shall go, as their input is gone. Files that it does not name stay as they are.
    """

    partition: str
    files: tuple[FileTask, ...] = ()
    failed: tuple[FailedFile, ...] = ()
    prune: tuple[str, ...] = ()

    def named(self) -> set[str]:
        """Return the source files that it says something about."""
        return {*self.paths(), *self.prune}

    def paths(self) -> dict[str, str]:
        """Return the input files that are there, with their paths, by source_file."""
        readable = {file.source_file: file.path for file in self.files}
        return readable | {file.source_file: file.path for file in self.failed}


@dataclass(frozen=True)
class PartitionState:
    """What a partition's two folders hold. sizes: per tree, files with their bytes."""

    ledger: Ledger | None
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def holds(self, entry: ShardEntry) -> bool:
        """Whether both parts of a shard are there, with the bytes they should have."""
        return all(
            self.sizes.get(tree, {}).get(entry.name) == entry.part(tree).bytes
            for tree in layout.TREES
        )

    def published(self, shard: Shard) -> ShardEntry | None:
        """Return the shard's entry where it is published, as wanted or by a later --retry."""
        entry = self._entries.get(shard.base_key)
        if entry is None or entry.generation < shard.generation or not self.holds(entry):
            return None
        return entry

    @cached_property
    def _entries(self) -> dict[str, ShardEntry]:
        files = self.ledger.files.values() if self.ledger else ()
        return {entry.base_key: entry for file in files for entry in file.shards}

    def parts(self) -> set[str]:
        """Return the names of all parts that lie in either folder."""
        return {name for names in self.sizes.values() for name in names if layout.is_part(name)}

    def held(self, ledger: Ledger) -> list[ShardEntry]:
        """Return the shards of a ledger whose parts are there as they should be."""
        entries = (entry for file in ledger.files.values() for entry in file.shards)
        return [entry for entry in entries if self.holds(entry)]

    def whole(self, ledger: Ledger) -> bool:
        """Whether the parts there are exactly those of a ledger."""
        return self.parts() == ledger.names() == {entry.name for entry in self.held(ledger)}

    def succeeded(self) -> bool:
        """Whether both trees say that the partition is complete."""
        return all(layout.SUCCESS in self.sizes.get(tree, {}) for tree in layout.TREES)

    def says_success(self) -> bool:
        """Whether either tree does."""
        return any(layout.SUCCESS in self.sizes.get(tree, {}) for tree in layout.TREES)


def read_partition(store: Store, partition: str, ledger: Ledger | None = None) -> PartitionState:
    """Return what a partition holds. ledger: what it shall hold, where that is not its own."""
    ledger = ledger or read_ledger(store, partition)
    listed = {tree: store.sizes(layout.partition_folder(tree, partition)) for tree in layout.TREES}
    return exact_state(store, partition, ledger, listed)


def exact_state(
    store: Store,
    partition: str,
    ledger: Ledger | None,
    listed: Mapping[str, Mapping[str, int]],
) -> PartitionState:
    """Return a partition's state as it is, where a listing may be behind.

    Files that are listed as the ledger says are there: no part is written twice under one
    name with other rows. What the listing lacks, or has beside the ledger, is looked up by
    name. listed: per tree, files with their bytes.
    """
    if store.local:
        return PartitionState(ledger, listed)
    entries = [entry for file in ledger.files.values() for entry in file.shards] if ledger else []
    sizes = {tree: dict(files) for tree, files in listed.items()}
    doubtful = []
    for tree in layout.TREES:
        expected = {entry.name: entry.part(tree).bytes for entry in entries}
        if ledger is not None and ledger.files and not ledger.unpublished:
            expected[layout.SUCCESS] = 0
        found = {n: b for n, b in sizes.get(tree, {}).items() if n != layout.LEDGER}
        names = {name for name, _ in expected.items() ^ found.items()}
        doubtful += [(tree, name) for name in sorted(names)]

    def look_up(place: tuple[str, str]) -> int | None:
        return store.size(layout.in_partition(place[0], partition, place[1]))

    for (tree, name), size in zip(doubtful, in_parallel(look_up, doubtful), strict=True):
        sizes.setdefault(tree, {}).pop(name, None)
        if size is not None:
            sizes[tree][name] = size
    return PartitionState(ledger, sizes)


def is_settled(task: PartitionTask, state: PartitionState) -> bool:
    """Whether a partition holds what a run wants, so that nothing is to be published."""
    ledger = state.ledger
    if ledger is None:
        return not (task.files or state.parts() or state.says_success())
    if set(task.prune) & set(ledger.files):
        return False
    for file in task.files:
        published = ledger.files.get(file.source_file)
        if published is None or published.path != redact(file.path):
            return False
        if [entry.key for entry in published.shards] != [shard.key for shard in file.shards]:
            return False
        if not all(state.holds(entry) for entry in published.shards):
            return False
    unpublished = {file.source_file for file in task.failed} | set(remembered(task, ledger))
    if unpublished != set(ledger.unpublished):
        return False
    if unpublished or not state.whole(ledger):
        return not state.says_success() and bool(unpublished)
    return state.succeeded()


def remembered(task: PartitionTask, ledger: Ledger | None) -> dict[str, UnpublishedFile]:
    """Return the files that earlier runs could not publish, this run does not name, and are there.

    While there is one the partition is not complete, whatever part of the input a run is given.
    """
    left = {}
    for source_file, file in (ledger.unpublished if ledger else {}).items():
        if source_file not in task.named() and not gone(file.path):
            left[source_file] = file
    return left


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


def partition_tasks(plan: Plan) -> dict[str, PartitionTask]:
    """Return what a plan wants, for every partition that it touches, also the settled ones."""
    files: dict[str, list[FileTask]] = defaultdict(list)
    failed: dict[str, list[FailedFile]] = defaultdict(list)
    prune: dict[str, list[str]] = defaultdict(list)
    for file in plan.files:
        shards = plan.shards[file.source_file]
        task = FileTask(file.path, file.source_file, file.identity, file.rows, shards)
        files[file.partition].append(task)
    for failure in plan.failed_files:
        failed[failure.partition].append(failure)
    for source_file in plan.orphans if plan.prune else ():
        prune[partition_of(source_file)].append(source_file)
    return {
        partition: PartitionTask(
            partition,
            tuple(files.get(partition, ())),
            tuple(failed.get(partition, ())),
            tuple(prune.get(partition, ())),
        )
        for partition in sorted({*files, *failed, *prune})
    }
