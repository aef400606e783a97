"""One partition: what a run wants of it, and what it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger, ShardEntry, listed_number, newest_ledger
from pipelines.annotate.plan import Plan, Shard
from pipelines.posts.files import FailedFile
from pipelines.posts.names import partition_of
from pipelines.storage.files import Store, in_parallel


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

    files: to be published. failed: what could not be read. orphans: source files whose input
    is gone; prune: their parts shall go. Files that it does not name stay as they are. usual:
    labels of the last nights before it, counted.
    """

    partition: str
    files: tuple[FileTask, ...] = ()
    failed: tuple[FailedFile, ...] = ()
    orphans: tuple[str, ...] = ()
    prune: bool = False
    usual: Mapping[str, int] = field(default_factory=dict)

    def paths(self) -> dict[str, str]:
        """Return the input files that are there, with their paths, by source_file."""
        readable = {file.source_file: file.path for file in self.files}
        return readable | {file.source_file: file.path for file in self.failed}


@dataclass(frozen=True)
class PartitionState:
    """What a partition's folders hold, and its newest ledger with its number.

    sizes: per tree, files with their bytes. staged: (tree, name) of the ledger's parts that
    are not in their folder yet, as who committed it was killed, or is at it. succeeded: the
    trees whose _SUCCESS names this ledger.
    """

    number: int = 0
    ledger: Ledger | None = None
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    staged: frozenset[tuple[str, str]] = frozenset()
    succeeded: frozenset[str] = frozenset()

    def placed(self, entry: ShardEntry, tree: str) -> bool:
        """Whether a shard's part is in its folder, with the bytes it should have."""
        return self.sizes.get(tree, {}).get(entry.name) == entry.part(tree).bytes

    def holds(self, entry: ShardEntry) -> bool:
        """Whether both parts of a shard are in their folders, or on their way there."""
        return all(
            self.placed(entry, tree) or (tree, entry.name) in self.staged for tree in layout.TREES
        )

    def published(self, shard: Shard) -> ShardEntry | None:
        """Return the shard's entry where it is published, as wanted or by a later --retry."""
        entry = self._by_base_key.get(shard.base_key)
        if entry is None or entry.generation < shard.generation or not self.holds(entry):
            return None
        return entry

    @cached_property
    def _by_base_key(self) -> dict[str, ShardEntry]:
        return {entry.base_key: entry for entry in self.entries.values()}

    @cached_property
    def entries(self) -> dict[str, ShardEntry]:
        """The ledger's shards by the name of their parts."""
        return self.ledger.entries() if self.ledger else {}

    def parts(self) -> set[str]:
        """Return the names of all parts that lie in either folder."""
        return {n for names in self.sizes.values() for n in names if layout.mark_of(n)}

    def whole(self) -> bool:
        """Whether the folders hold exactly the parts that the ledger names."""
        placed = all(self.placed(e, tree) for e in self.entries.values() for tree in layout.TREES)
        return placed and self.parts() == self.entries.keys()

    def complete(self) -> bool:
        """Whether the partition may say _SUCCESS."""
        ledger = self.ledger
        return bool(ledger and ledger.files and not ledger.unpublished) and self.whole()

    def says_success(self) -> bool:
        """Whether either tree says that the partition is complete, by whatever ledger."""
        return any(layout.SUCCESS in names for names in self.sizes.values())

    def settled(self) -> bool:
        """Whether nothing is to be done for the folders to be as the ledger says."""
        if self.complete():
            return self.succeeded == {*layout.TREES}
        dropped = self.ledger.dropped if self.ledger else ()
        return not (self.says_success() or self.staged or self.parts() & {*dropped})


def read_partition(
    store: Store,
    partition: str,
    listed: Mapping[str, Mapping[str, int]] | None = None,
    number: int | None = None,
) -> PartitionState:
    """Return what a partition holds, as it is, where a listing may be behind.

    Files that are listed as the ledger says are there: no part's name is used twice. What the
    listing lacks, or has beside the ledger, is looked up by name. listed: per tree, files with
    their bytes; number: the highest of its ledgers that is listed; both where known already.
    """
    if number is None:
        number = listed_number(store, partition)
    number, ledger = newest_ledger(store, partition, number)
    if listed is None:
        listed = {t: store.sizes(layout.partition_folder(t, partition)) for t in layout.TREES}
    sizes = {tree: dict(listed.get(tree, {})) for tree in layout.TREES}
    entries = ledger.entries() if ledger else {}
    doubtful = []
    for tree in layout.TREES:
        expected = {entry.name: entry.part(tree).bytes for entry in entries.values()}
        parts = {name: size for name, size in sizes[tree].items() if layout.mark_of(name)}
        names = {name for name, _ in expected.items() ^ parts.items()}
        doubtful += [(tree, name) for name in sorted(names)]

    def look_up(place: tuple[str, str]) -> tuple[int | None, bool]:
        tree, name = place
        published, entry = layout.in_partition(tree, partition, name), entries.get(name)
        size = store.size(published)
        if entry is None or size == entry.part(tree).bytes:
            return size, False
        if store.size(entry.staged(tree)) == entry.part(tree).bytes:
            return size, True
        # Meanwhile it may have been brought from the one place to the other.
        return store.size(published), False

    staged = set()
    for (tree, name), (size, is_staged) in zip(
        doubtful, in_parallel(look_up, doubtful), strict=True
    ):
        sizes[tree].pop(name, None)
        if size is not None:
            sizes[tree][name] = size
        if is_staged:
            staged.add((tree, name))
    succeeded = set()
    for tree in layout.TREES:
        says = store.read(layout.in_partition(tree, partition, layout.SUCCESS))
        sizes[tree].pop(layout.SUCCESS, None)
        if says is not None:
            sizes[tree][layout.SUCCESS] = len(says)
            if says == success_text(partition, number):
                succeeded.add(tree)
    return PartitionState(number, ledger, sizes, frozenset(staged), frozenset(succeeded))


def success_text(partition: str, number: int) -> bytes:
    """Return what _SUCCESS holds: the name of the ledger that it belongs to."""
    return f"{layout.ledger(partition, number)}\n".encode()


def partition_tasks(plan: Plan) -> dict[str, PartitionTask]:
    """Return what a plan wants, for every partition that it touches, also the settled ones."""
    files: dict[str, list[FileTask]] = defaultdict(list)
    failed: dict[str, list[FailedFile]] = defaultdict(list)
    orphans: dict[str, list[str]] = defaultdict(list)
    for file in plan.files:
        shards = plan.shards[file.source_file]
        task = FileTask(file.path, file.source_file, file.identity, file.rows, shards)
        files[file.partition].append(task)
    for failure in plan.failed_files:
        failed[failure.partition].append(failure)
    for source_file in plan.orphans:
        partition = partition_of(source_file)
        # A night whose whole input was put away is complete; one written anew is not.
        if plan.prune or partition in files or partition in failed:
            orphans[partition].append(source_file)
    return {
        partition: PartitionTask(
            partition,
            tuple(files.get(partition, ())),
            tuple(failed.get(partition, ())),
            tuple(orphans.get(partition, ())),
            plan.prune,
            plan.usual.get(partition, {}),
        )
        for partition in sorted({*files, *failed, *orphans})
    }
