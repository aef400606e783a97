"""What a partition holds: its newest ledger, and what lies in its folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.annotate.job import Shard
from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger, Part, ShardEntry
from pipelines.storage.files import OutputError, Store, in_parallel, to_json
from schemas.read_record import read_record


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

    def parts(self, tree: str) -> Mapping[str, Part]:
        """Return the parts that the ledger names in a tree, by name."""
        return self.ledger.parts.get(tree, {}) if self.ledger else {}

    def placed(self, tree: str, name: str) -> bool:
        """Whether a part that the ledger names is in its folder, with the bytes it should have."""
        return self.sizes.get(tree, {}).get(name) == self.parts(tree)[name].bytes

    def place(self, partition: str, tree: str, name: str) -> str:
        """Return where a part lies that the ledger names."""
        folder = tree if self.placed(tree, name) else layout.prepared(tree)
        return layout.in_partition(folder, partition, name)

    def holds(self, name: str) -> bool:
        """Whether a part that the ledger names is in its folders, or on its way there."""
        return all(
            self.placed(tree, name) or (tree, name) in self.staged
            for tree in layout.TREES
            if name in self.parts(tree)
        )

    def published(self, shard: Shard) -> ShardEntry | None:
        """Return the shard's entry where it is published, as wanted or by a later --retry."""
        entry = self._by_base_key.get(shard.base_key)
        if entry is None or entry.generation < shard.generation or not self.holds(entry.part):
            return None
        return entry

    @cached_property
    def _by_base_key(self) -> dict[str, ShardEntry]:
        files = self.ledger.files.values() if self.ledger else ()
        return {shard.base_key: shard for file in files for shard in file.shards}

    def unnamed(self) -> set[tuple[str, str]]:
        """Return (tree, name) of the parts in the folders that the ledger does not name."""
        return {
            (tree, name)
            for tree, names in self.sizes.items()
            for name in names
            if layout.part_number(name) and name not in self.parts(tree)
        }

    def dead(self) -> set[tuple[str, str]]:
        """Return those of them that earlier ledgers named: nobody will name them again."""
        return {place for place in self.unnamed() if layout.part_number(place[1]) <= self.number}

    def complete(self) -> bool:
        """Whether the partition may say _SUCCESS once its folders are as the ledger says."""
        ledger = self.ledger
        if ledger is None or not ledger.files or ledger.unpublished:
            return False
        return all(self.holds(name) for parts in ledger.parts.values() for name in parts)

    def says_success(self) -> bool:
        """Whether either tree says that the partition is complete, by whatever ledger."""
        return any(layout.SUCCESS in names for names in self.sizes.values())

    def settled(self) -> bool:
        """Whether nothing is to be done for the folders to be as the ledger says."""
        if self.staged or self.unnamed():
            return False
        return self.succeeded == {*layout.TREES} if self.complete() else not self.says_success()


def read_partition(
    store: Store,
    partition: str,
    listed: Mapping[str, Mapping[str, int]] | None = None,
    number: int | None = None,
) -> PartitionState:
    """Return what a partition holds, as it is, where a listing may be behind.

    Files that are listed as the ledger says are there: no part's name is used twice. What the
    listing lacks, or has beside the ledger, is looked up by name. listed: per tree, files with
    their bytes; number: the highest of its ledgers that is listed since; both where known.
    Raises OutputError, also where the folders hold parts whose ledger is not there.
    """
    # Before the ledgers: what is listed was named by one that is found then.
    if listed is None:
        listed = {t: store.sizes(layout.partition_folder(t, partition)) for t in layout.TREES}
    number, ledger = newest_ledger(store, partition, number)
    sizes = {tree: dict(listed.get(tree, {})) for tree in layout.TREES}
    named = {tree: ledger.parts.get(tree, {}) if ledger else {} for tree in layout.TREES}
    doubtful = []
    for tree in layout.TREES:
        expected = {name: part.bytes for name, part in named[tree].items()}
        parts = {name: size for name, size in sizes[tree].items() if layout.part_number(name)}
        names = {name for name, _ in expected.items() ^ parts.items()}
        doubtful += [(tree, name) for name in sorted(names)]

    def look_up(place: tuple[str, str]) -> tuple[int | None, bool]:
        tree, name = place
        published, part = layout.in_partition(tree, partition, name), named[tree].get(name)
        size = store.size(published)
        if part is None or size == part.bytes:
            return size, False
        if store.size(layout.in_partition(layout.prepared(tree), partition, name)) == part.bytes:
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
    state = PartitionState(number, ledger, sizes, frozenset(staged), frozenset(succeeded))
    if strangers := state.unnamed() - state.dead():
        raise OutputError(
            f"{store.url}: partition {partition or '(none)'} holds parts whose ledger is gone, "
            f"such as {layout.in_partition(min(strangers)[0], partition, min(strangers)[1])}; put "
            f"{layout.partition_folder(layout.LEDGERS, partition)} back, or delete that "
            "partition's folders, its input is annotated again"
        )
    return state


def success_text(partition: str, number: int) -> bytes:
    """Return what _SUCCESS holds: the name of the ledger that it belongs to."""
    return f"{layout.ledger(partition, number)}\n".encode()


LEDGER_VERSION = 3


def newest_ledger(
    store: Store, partition: str, listed: int | None = None
) -> tuple[int, Ledger | None]:
    """Return the number of a partition's ledger and the ledger; 0 and None where it has none.

    listed: the highest number that a listing has, where it was listed. One that is behind only
    says where to begin.
    Raises OutputError where the file is damaged or of another version.
    """
    if listed is None:
        names = store.sizes(layout.partition_folder(layout.LEDGERS, partition))
        listed = max(map(layout.ledger_number, names), default=0)
    number, value = listed, None
    if listed:
        value = store.read_json(layout.ledger(partition, listed))
    while not (store.local and listed):
        following = store.read_json(layout.ledger(partition, number + 1))
        if following is None:
            break
        number, value = number + 1, following
    if value is None:
        return number, None
    try:
        if value["version"] != LEDGER_VERSION:
            raise ValueError(f"version {value['version']}, expected {LEDGER_VERSION}")
        return number, read_record(Ledger, value)
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{store.url}/{layout.ledger(partition, number)} is no ledger this version can read "
            f"({error}); delete that partition's folders, its input is annotated again"
        ) from error


def read_ledger(store: Store, partition: str) -> Ledger | None:
    """Return the ledger of a partition, None where it has none; OutputError as newest_ledger."""
    return newest_ledger(store, partition)[1]


def read_ledgers(store: Store) -> dict[str, Ledger]:
    """Return the ledgers of all partitions of an output that are listed; OutputError as above."""
    numbers = listed_numbers(store)
    read = in_parallel(lambda one: newest_ledger(store, one, numbers[one])[1], numbers)
    return {partition: one for partition, one in zip(numbers, read, strict=True) if one}


def listed_numbers(store: Store) -> dict[str, int]:
    """Return the highest number of each partition's ledgers that a listing has."""
    numbers: dict[str, int] = {}
    for path in store.sizes(layout.LEDGERS, recursive=True):
        partition, _, name = path.rpartition("/")
        numbers[partition] = max(numbers.get(partition, 0), layout.ledger_number(name))
    return dict(sorted(numbers.items()))


def add_ledger(store: Store, partition: str, number: int, ledger: Ledger) -> bool:
    """Commit a partition's next ledger; return whether no other run was first."""
    return store.create(
        layout.ledger(partition, number),
        to_json({"version": LEDGER_VERSION, **dataclasses.asdict(ledger)}),
    )
