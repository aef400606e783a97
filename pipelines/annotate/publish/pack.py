"""Writing the parts that a partition's next ledger will name, of many small shards one.

Shards come from the staging folder, and from published parts of which other shards go; those
stay as they are. Nothing is encoded twice but such parts, and small ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import CommitRecord
from pipelines.annotate.output.ledger import Ledger, Part, ShardEntry
from pipelines.annotate.output.part_reader import StoredFile, read_here
from pipelines.annotate.output.part_writer import PartWriter
from pipelines.annotate.output.partition_state import PartitionState
from pipelines.annotate.output.verify_parts import (
    RowRanges,
    Shards,
    file_fault,
    open_part,
    prove_part,
)
from pipelines.storage.files import OutputError, Store, in_parallel
from pipelines.storage.redaction import reason_of

# Of small shards so many are read at once, and of large ones so many bytes.
_SHARDS_AT_ONCE = 32
_BYTES_AT_ONCE = 64 << 20


class ShardsAtFaultError(OutputError):
    """Committed shards are not what they were committed as. faults: by their keys."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        more = f" (and {len(faults) - 1} more shards)" if len(faults) > 1 else ""
        super().__init__(f"{next(iter(faults.values()))}{more}")
        self.faults = faults


class Packed:
    """The parts of a ledger in the making, each proven when it is whole.

    parts: the new ones, by tree and name. hashes: of the ids in them, by place.
    """

    def __init__(self, store: Store, partition: str, number: int, part_bytes: int) -> None:
        self.parts: dict[str, dict[str, Part]] = {tree: {} for tree in layout.TREES}
        self.hashes: dict[str, np.ndarray] = {}
        self._store = store
        self._partition = partition
        self._number = number
        self._attempt = uuid.uuid4().hex[:16]
        self._part_bytes = part_bytes
        self._names: dict[str, str] = {}
        self._begun = 0
        self._shards: list[tuple[str, ShardEntry]] = []
        self._writers: dict[str, PartWriter] = {}

    def add(self, shards: Shards, size: int, tables: Iterable[tuple[str, pa.Table]]) -> None:
        """Write shards' rows into one part. tables: with their trees, annotations first."""
        if sum(w.size for w in self._writers.values()) + size > self._part_bytes:
            self.close()
        for tree, table in tables:
            # Who kept other columns than now wrote rows that fit into no common part.
            if tree in self._writers and not self._writers[tree].schema.equals(table.schema):
                self.close()
            if tree not in self._writers:
                place = self._place(tree, self._name())
                self._writers[tree] = PartWriter(self._store, place, table.schema)
            self._writers[tree].add(table)
        self._shards += shards

    def close(self) -> None:
        """Finish the part that is being written, if any."""
        if not self._writers:
            return
        name = self._name()
        written = {tree: writer.close() for tree, writer in self._writers.items()}
        parts = {tree: part for tree, part in written.items() if part is not None}
        for tree, part in parts.items():
            self.parts[tree][name] = part
        self._names |= {shard.key: name for _, shard in self._shards}
        self._begun += 1
        places = {self._place(tree, name): part for tree, part in parts.items()}
        shards, self._writers, self._shards = self._shards, {}, []
        self.hashes |= prove_part(self._store, places, shards)

    def discard(self) -> None:
        """Remove what was written. Raises nothing."""
        for writer in self._writers.values():
            writer.discard()
        for tree, parts in self.parts.items():
            for name in parts:
                with contextlib.suppress(OutputError):
                    self._store.remove(self._place(tree, name))

    def in_ledger(self, ledger: Ledger) -> Ledger:
        """Return a ledger that names the parts, of one whose shards have none yet."""
        files = {
            name: dataclasses.replace(file, shards=tuple(map(self._placed, file.shards)))
            for name, file in ledger.files.items()
        }
        parts = {tree: {**ledger.parts.get(tree, {}), **self.parts[tree]} for tree in layout.TREES}
        return dataclasses.replace(ledger, files=files, parts=parts)

    def _placed(self, shard: ShardEntry) -> ShardEntry:
        part = shard.part or self._names.get(shard.key, "")
        return dataclasses.replace(shard, part=part)

    def _name(self) -> str:
        return layout.part_name(self._number, self._begun, self._attempt)

    def _place(self, tree: str, name: str) -> str:
        return layout.in_partition(layout.prepared(tree), self._partition, name)


def pack(
    store: Store,
    partition: str,
    state: PartitionState,
    ledger: Ledger,
    added: Mapping[str, Sequence[CommitRecord]],
    moved: Sequence[str],
    part_bytes: int,
) -> Packed:
    """Write and prove the parts that a decided ledger lacks.

    added, moved: as in decide.Decision. Raises ShardsAtFaultError where a staged shard is not
    what was committed, OutputError where a published part is not, or the store refuses.
    """
    faults = {
        record.entry.key: fault
        for name, records in added.items()
        if (fault := file_fault(name, ledger.files[name]))
        for record in records
    }
    if faults:
        raise ShardsAtFaultError(faults)
    packed = Packed(store, partition, state.number + 1, part_bytes)
    try:
        for name in moved:
            packed.add(*_rest_of_part(store, partition, state, ledger, name))
        for records in _batches(added):
            read = in_parallel(lambda record: _read_shard(store, record), records)
            if faults := {r.entry.key: f for r, (_, f) in zip(records, read, strict=True) if f}:
                raise ShardsAtFaultError(faults)
            for record, (tables, _) in zip(records, read, strict=True):
                size = sum(part.bytes for part in record.parts.values())
                packed.add([(record.source_file, record.entry)], size, tables)
        packed.close()
    except BaseException:
        packed.discard()
        raise
    return packed


def _rest_of_part(
    store: Store, partition: str, state: PartitionState, ledger: Ledger, name: str
) -> tuple[Shards, int, Iterator[tuple[str, pa.Table]]]:
    """Return the shards of a published part that stay, about how many bytes, and their rows."""
    assert state.ledger is not None
    stay = {
        (source_file, shard.key)
        for source_file, file in ledger.files.items()
        for shard in file.shards
        if not shard.part
    }
    held = state.ledger.shards_of_parts()[name]
    shards = [(file, shard) for file, shard in held if (file, shard.key) in stay]
    share = sum(shard.rows for _, shard in shards) / sum(shard.rows for _, shard in held)

    def tables() -> Iterator[tuple[str, pa.Table]]:
        ranges = RowRanges(shards)
        for tree in layout.TREES:
            if (part := state.parts(tree).get(name)) is None:
                continue
            place = state.place(partition, tree, name)
            with open_part(store, place, part) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, use_threads=False)
                    yield tree, table.filter(pa.array(ranges.holds(table)))

    return shards, int(share * state.ledger.bytes_of(name)), tables()


def _batches(added: Mapping[str, Iterable[CommitRecord]]) -> Iterator[list[CommitRecord]]:
    """Yield the shards with rows, few enough at a time to be held, by file and row."""
    batch: list[CommitRecord] = []
    size = 0
    for _, records in sorted(added.items()):
        for record in records:
            more = sum(part.bytes for part in record.parts.values())
            if batch and (len(batch) == _SHARDS_AT_ONCE or size + more > _BYTES_AT_ONCE):
                yield batch
                batch, size = [], 0
            if record.parts:
                batch.append(record)
                size += more
    if batch:
        yield batch


def _read_shard(
    store: Store, record: CommitRecord
) -> tuple[list[tuple[str, pa.Table]], str | None]:
    """Return a staged shard's rows by tree, and what is wrong with them."""
    tables: list[tuple[str, pa.Table]] = []
    for tree in layout.TREES:
        if tree not in record.parts:
            continue
        place = record.staged(tree)
        try:
            file = StoredFile(store, place, record.parts[tree].bytes)
            if file.sha256() != record.parts[tree].sha256:
                return tables, f"{place} does not have the bytes that were committed"
            tables.append((tree, read_here(file).read(use_threads=False)))
        except (OSError, pa.ArrowException) as error:
            return tables, f"{place} cannot be read: {reason_of(error)}"
    if RowRanges([(record.source_file, record.entry)]).are(table for _, table in tables):
        return tables, None
    return tables, f"{record.source_file}: its staged parts do not hold each of its rows once"
