"""Publishing as a sequence of steps that can be killed anywhere and replayed.

An intent says everything that publishing a partition will do; once it is written, whoever
comes next can finish. Parts are added and proven before any is removed, so up to that point
there is a way back, too: a partition whose proof fails keeps the parts it had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.annotate.output import layout
from pipelines.annotate.output.commits import clear_shards
from pipelines.annotate.output.ledger import Ledger, ShardEntry, read_ledger, write_ledger
from pipelines.annotate.output.locks import Lock, partition_lock
from pipelines.annotate.output.partitions import read_partition
from pipelines.annotate.output.proof import IdHashes, count_duplicate_ids, find_faults
from pipelines.storage.files import OutputError, Store, open_store
from schemas.records import read_record


class PublishError(OutputError):
    """A partition could not be published, or not be proven; it has no _SUCCESS."""


@dataclass(frozen=True)
class Move:
    """One shard's way from the staging folder. name: of its published parts."""

    source_file: str
    key: str
    attempt: str
    name: str


@dataclass(frozen=True)
class Intent:
    """What publishing a partition does.

    ledger: as it shall be; without files the partition goes away. moves: what is added.
    remove: names of parts that go, in both trees. keys: shards whose staged remains go.
    complete: whether the partition then says _SUCCESS.
    """

    partition: str
    ledger: Ledger
    moves: tuple[Move, ...] = ()
    remove: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    complete: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**dataclasses.asdict(self), "ledger": self.ledger.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Intent:
        """Return the intent that to_json wrote."""
        return read_record(cls, value)


class _LostPartError(PublishError):
    """A part that an intent wants to publish is nowhere: somebody removed it."""

    def __init__(self, move: Move) -> None:
        super().__init__(
            f"a staged part of {move.source_file} is gone: the staging folder was changed from "
            "outside; run again, its shard is annotated anew"
        )
        self.source_file = move.source_file


def replay_intents(output: str) -> list[str]:
    """Finish what killed runs were publishing; return warnings.

    The first act of a run. A partition that cannot be finished is worth a warning: it keeps
    its intent, or is undone where its proof fails, and the others must not wait for it. A run
    that publishes it meets the fault again.
    """
    store = open_store(output)
    warnings = []
    for name in store.sizes(layout.INTENTS):
        place = f"{layout.INTENTS}/{name}"
        try:
            value = store.read_json(place)
            if value is None:
                continue
            partition = _parse(store, place, value).partition
            with partition_lock(store, partition) as lock:
                warnings += replay_intent(store, partition, lock)
        except OutputError as error:
            warnings.append(f"what a killed run was publishing is not finished: {error}")
    return warnings


def replay_intent(store: Store, partition: str, lock: Lock) -> list[str]:
    """Finish publishing a partition where an intent says so; return warnings."""
    place = layout.intent(partition)
    value = store.read_json(place)
    if value is None:
        return []
    try:
        carry_out(store, _parse(store, place, value), lock)
    except _LostPartError as error:
        return [f"partition {partition or '(none)'}: {error}"]
    return []


def _parse(store: Store, place: str, value: Any) -> Intent:
    try:
        return Intent.from_json(value)
    except ValueError as error:
        raise OutputError(
            f"{store.url}/{place} was written by another version of this package; finish that "
            "run with it, or delete the file and the partition's folders"
        ) from error


def declare(store: Store, intent: Intent, lock: Lock) -> None:
    """Write the intent: from here on it will be carried out, by this run or the next."""
    lock.check()
    store.write_json(layout.intent(intent.partition), intent.to_json())


def carry_out(store: Store, intent: Intent, lock: Lock) -> None:
    """Do what a declared intent says, from the start or from wherever a killed run got.

    Raises PublishError where the result cannot be proven; the partition then has the parts
    it had, without _SUCCESS.
    """
    drop_success(store, intent.partition, lock)
    entries = {
        (name, entry.key): entry
        for name, file in intent.ledger.files.items()
        for entry in file.shards
    }

    def add(move: Move) -> None:
        _add(store, intent.partition, move, entries[move.source_file, move.key], lock)

    try:
        store.for_each(add, intent.moves)
    except _LostPartError as lost:
        _undo(store, intent, {lost.source_file}, lock)
        raise
    _sync(store, intent.partition)
    touched = {move.source_file for move in intent.moves}
    files = {n: file for n, file in intent.ledger.files.items() if n in touched}
    faults, id_hashes = find_faults(store, intent.partition, files)
    if faults:
        _undo(store, intent, set(faults), lock)
        raise PublishError(_describe(intent.partition, faults))

    def remove(name: str) -> None:
        for tree in layout.TREES:
            lock.check()
            store.remove(layout.in_partition(tree, intent.partition, name))

    store.for_each(remove, intent.remove)
    _sync(store, intent.partition)
    _settle(store, intent, id_hashes, lock)


def drop_success(store: Store, partition: str, lock: Lock) -> None:
    """Let a partition no longer say that it is complete."""
    for tree in layout.TREES:
        lock.check()
        store.remove(layout.in_partition(tree, partition, layout.SUCCESS))
    _sync(store, partition)


def _add(store: Store, partition: str, move: Move, entry: ShardEntry, lock: Lock) -> None:
    for tree in layout.TREES:
        staged = layout.staged_part(tree, move.key, move.attempt)
        published = layout.in_partition(tree, partition, move.name)
        lock.check()
        # The staged part first: what lies at the target may be a leftover of equal size.
        there = store.move(staged, published) or (store.size(published) == entry.part(tree).bytes)
        if not there:
            raise _LostPartError(move)


def _undo(store: Store, intent: Intent, faulty: set[str], lock: Lock) -> None:
    """Take the added parts back; those of faulty files are computed again."""
    before = read_ledger(store, intent.partition)
    kept = before.names() if before else set()
    for move in intent.moves:
        if move.source_file in faulty:
            store.remove(layout.commit_record(move.key))
        for tree in layout.TREES:
            staged = layout.staged_part(tree, move.key, move.attempt)
            published = layout.in_partition(tree, intent.partition, move.name)
            lock.check()
            if move.source_file in faulty:
                store.remove(staged)
                store.remove(published)
            elif move.name not in kept and store.size(published) is not None:
                store.move(published, staged)
    lock.check()
    store.remove(layout.intent(intent.partition))


def _settle(store: Store, intent: Intent, id_hashes: IdHashes, lock: Lock) -> None:
    """Write the ledger and _SUCCESS, last of all; clear the staging folder.

    id_hashes: of the parts that were read already.
    """
    partition = intent.partition
    lock.check()
    if not intent.ledger.files and not intent.ledger.unpublished:
        store.remove(layout.in_partition(layout.ANNOTATIONS, partition, layout.LEDGER))
        for tree in layout.TREES:
            store.remove_empty_folders(layout.partition_folder(tree, partition), tree)
        _finish(store, intent, lock)
        return
    state = read_partition(store, partition, intent.ledger)
    parts = {
        layout.in_partition(tree, partition, entry.name): entry.part(tree).bytes
        for tree in layout.TREES
        for entry in state.held(intent.ledger)
    }
    duplicates = count_duplicate_ids(store, parts, id_hashes)
    ledger = dataclasses.replace(intent.ledger, duplicate_ids=duplicates)
    lock.check()
    write_ledger(store, partition, ledger)
    whole = state.whole(ledger)
    if intent.complete and whole:
        for tree in reversed(layout.TREES):
            lock.check()
            store.write(layout.in_partition(tree, partition, layout.SUCCESS), b"")
    _finish(store, intent, lock)
    if intent.complete and not whole:
        raise PublishError(
            f"partition {partition or '(none)'}: its parts are not those that were published: "
            "somebody changed the folder meanwhile; run again"
        )


def _finish(store: Store, intent: Intent, lock: Lock) -> None:
    clear_shards(store, intent.keys)
    lock.check()
    store.remove(layout.intent(intent.partition))


def _sync(store: Store, partition: str) -> None:
    for tree in layout.TREES:
        store.sync(layout.in_partition(tree, partition, layout.SUCCESS))


def _describe(partition: str, faults: Mapping[str, str]) -> str:
    first = next(iter(faults.values()))
    more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
    return (
        f"partition {partition or '(none)'} is not published, the proof failed: {first}{more}; "
        "run again, those files are annotated anew"
    )
