"""A worker's side of the output: attempts, staged parts and commit records.

A worker writes the two parts of a shard under names that no other attempt has, then creates
one commit record that names both. Of several attempts at a shard one creates the record;
the others remove their own parts. Whatever a killed worker leaves is garbage that nothing
names, and the attempt record that says who was at work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Counts, ShardEntry
from pipelines.annotate.output.part_writer import PartWriter
from pipelines.annotate.plan import JobOptions, Shard
from pipelines.storage.files import TEMPORARY, Store, to_json
from schemas.annotations import MODALITIES, annotations_schema
from schemas.dead_letters import dead_letters_schema
from schemas.records import read_record

# An attempt that says nothing for this long is taken for dead, wherever it ran.
_SILENCE_SECONDS = 120.0
_TOUCH_SECONDS = 2.0

# What killed an attempt longer ago says nothing of its shard: machines and people change.
_REMEMBERED_SECONDS = 86_400.0

_PROCESS_STARTED = time.time()


@dataclass(frozen=True)
class CommitRecord:
    """One committed shard, from commit to publishing. attempt: in its staged parts' names."""

    partition: str
    source_file: str
    identity: str
    run_id: str
    attempt: str
    entry: ShardEntry

    def staged(self, tree: str) -> str:
        """Return where its part of a tree was staged."""
        return layout.staged_part(tree, self.entry.key, self.attempt)

    def published(self, tree: str) -> str:
        """Return where its part of a tree is published."""
        return layout.in_partition(tree, self.partition, self.entry.name)


def find_commit(store: Store, key: str) -> CommitRecord | None:
    """Return a shard's commit record, None where it is not committed.

    A record whose parts are neither staged nor published any more (somebody emptied the
    staging folder or the partition) commits nothing.
    """
    value = store.read_json(layout.commit_record(key))
    try:
        record = read_record(CommitRecord, value)
    except ValueError:
        # There is none, or one that another version of this package wrote.
        return None
    for tree in layout.TREES:
        # In this order: a publisher moves parts from the first place to the second.
        places = (record.staged(tree), record.published(tree))
        if not any(store.size(place) == record.entry.part(tree).bytes for place in places):
            return None
    return record


def committed_keys(store: Store) -> set[str]:
    """Return the keys of all commit records, their parts unchecked."""
    return {name.removesuffix(".json") for name in store.sizes(layout.COMMITS)}


@dataclass(frozen=True)
class AttemptState:
    """What an attempt's record says: rows and dead letters done so far, not yet committed."""

    key: str
    attempt: str
    run_id: str
    rows: int
    dead_letters: int
    host: str
    process: int
    updated: float

    def alive(self) -> bool:
        """Whether it may still be at work."""
        if time.time() - self.updated > _SILENCE_SECONDS:
            return False
        if self.host != socket.gethostname():
            return True
        # A container that starts again has the host name and process id of the killed one.
        if self.process == os.getpid():
            return self.updated >= _PROCESS_STARTED
        return _process_runs(self.process)


class Attempt:
    """One try at a shard, on record while it runs. Not for several threads at once.

    began: when, in seconds since 1970.
    """

    def __init__(self, store: Store, key: str, run_id: str) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.key = key
        self.began = time.time()
        self._store = store
        self._run_id = run_id
        self._written = 0.0

    def touch(self, rows: int, dead_letters: int = 0) -> None:
        """Put on record how many rows of the shard are done; cheap to call often."""
        now = time.monotonic()
        if self._written and now - self._written < _TOUCH_SECONDS:
            return
        self._written = now
        state = AttemptState(
            self.key,
            self.id,
            self._run_id,
            rows,
            dead_letters,
            socket.gethostname(),
            os.getpid(),
            time.time(),
        )
        name = layout.attempt_record(self.key, self.id)
        self._store.write(name, to_json(dataclasses.asdict(state)), durable=False)

    def end(self) -> None:
        """Take it off the record: it ended in an orderly way, with a commit or without."""
        self._store.remove(layout.attempt_record(self.key, self.id))


def start_attempt(store: Store, key: str, run_id: str) -> Attempt:
    """Put a new attempt at a shard on record and return it; call end() whatever happens."""
    attempt = Attempt(store, key, run_id)
    attempt.touch(0)
    return attempt


def list_attempts(store: Store, keys: Iterable[str] | None = None) -> list[AttemptState]:
    """Return the attempts on record, of all shards or of those with the given keys."""
    wanted = None if keys is None else set(keys)
    states = []
    for name in store.sizes(layout.ATTEMPTS):
        if wanted is not None and name.partition(".")[0] not in wanted:
            continue
        value = store.read_json(f"{layout.ATTEMPTS}/{name}")
        # It may have ended meanwhile, or be another version's.
        with contextlib.suppress(TypeError):
            states.append(AttemptState(**value))
    return states


def stale_attempts(store: Store, keys: Iterable[str]) -> Counter[str]:
    """Return, by key, how many attempts at shards died without a word in the last 24 hours.

    Their process was killed, by what the shard holds or by whoever stopped the run.
    """
    oldest = time.time() - _REMEMBERED_SECONDS
    attempts = list_attempts(store, keys)
    return Counter(s.key for s in attempts if s.updated >= oldest and not s.alive())


def forget_attempts(store: Store, keys: Iterable[str]) -> None:
    """Take the attempts that died off the record, so that the shards are tried anew."""
    for state in list_attempts(store, keys):
        if not state.alive():
            store.remove(layout.attempt_record(state.key, state.attempt))


def clear_shards(store: Store, keys: Iterable[str]) -> None:
    """Remove what the staging folder holds of published shards, but for attempts at work."""
    keys = set(keys)
    attempts = list_attempts(store, keys)
    at_work = {state.attempt for state in attempts if state.alive()}
    left = [layout.commit_record(key) for key in keys]
    left += [
        layout.attempt_record(state.key, state.attempt)
        for state in attempts
        if state.attempt not in at_work
    ]
    for name in store.sizes(layout.STAGED_PARTS):
        key, attempt, *_ = name.split(".")
        if key in keys and attempt not in at_work:
            left.append(f"{layout.STAGED_PARTS}/{name}")
    store.for_each(store.remove, left)


def sweep_staging(store: Store, older_than_seconds: float = 7 * 86_400) -> int:
    """Remove what nobody will ask for again from the staging folder; return how many files.

    That is: attempts' leftovers, commits that no plan has published for so long, and leases
    but the last of each lock, from which the next is counted. What is younger may belong to a
    run at work.
    """
    folders = (
        layout.STAGED_PARTS,
        layout.COMMITS,
        layout.ATTEMPTS,
        layout.FAULTS,
        TEMPORARY,
    )
    old = [
        f"{folder}/{name}"
        for folder in folders
        for name, age in store.ages(folder).items()
        if age > older_than_seconds
    ]
    for lock in sorted({name.rpartition("/")[0] for name in store.sizes(layout.LOCKS, True)}):
        leases = store.ages(f"{layout.LOCKS}/{lock}") if lock else {}
        old += [
            f"{layout.LOCKS}/{lock}/{name}"
            for name in sorted(leases)[:-1]
            if leases[name] > older_than_seconds
        ]
    store.for_each(store.remove, old)
    return len(old)


class StagedShard:
    """The two parts of a shard while they are written, in the order of the posts' rows.

    Use it as a context manager: left without commit, it removes what it wrote.
    """

    def __init__(
        self,
        store: Store,
        options: JobOptions,
        shard: Shard,
        attempt: Attempt,
        *,
        keep: Sequence[pa.Field] = (),
        runtime: str = "torch f32 on cpu",
    ) -> None:
        """Open both parts.

        keep: fields of the kept columns. runtime: what computes the rows, for the parts'
        metadata. Raises OutputError where the output cannot be written.
        """
        self._store = store
        self._shard = shard
        self._attempt = attempt.id
        self._run_id = options.run_id
        self._lost_reasons: dict[str, int] = {}
        self._done = False
        metadata = {
            "drf.source_file": shard.source_file,
            "drf.key": shard.key,
            "drf.run_id": options.run_id,
            "drf.runtime": runtime,
            "drf.package_version": options.package_version,
        }
        schemas = {
            layout.ANNOTATIONS: annotations_schema(options.labels, keep),
            layout.DEAD_LETTERS: dead_letters_schema(),
        }
        self._parts: dict[str, PartWriter] = {}
        try:
            for tree, schema in schemas.items():
                name = layout.staged_part(tree, shard.key, self._attempt)
                schema = schema.with_metadata({**(schema.metadata or {}), **metadata})
                self._parts[tree] = PartWriter(store, name, schema)
        except BaseException:
            self.discard()
            raise

    @property
    def annotations_schema(self) -> pa.Schema:
        """The schema that add_annotations takes."""
        return self._parts[layout.ANNOTATIONS].schema

    def add_annotations(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add annotations, in the order of source_row."""
        self._parts[layout.ANNOTATIONS].add(rows)

    def add_dead_letters(
        self, rows: pa.RecordBatch | pa.Table, modality_reasons: Iterable[str] = ()
    ) -> None:
        """Add dead letters, in the order of source_row.

        modality_reasons: why their texts and images could not be used (fetch_failed, …), one
        item per modality that could not.
        """
        self._parts[layout.DEAD_LETTERS].add(rows)
        for reason in modality_reasons:
            self._lost_reasons[reason] = self._lost_reasons.get(reason, 0) + 1

    def commit(self) -> CommitRecord:
        """Close both parts and commit the shard; return its record.

        Where another attempt committed it first, this one's parts are removed and the
        record returned is the other's. Raises ValueError unless the two parts together have
        the shard's rows, each once and in order.
        """
        shard = self._shard
        annotations = self._parts[layout.ANNOTATIONS].close()
        dead_letters = self._parts[layout.DEAD_LETTERS].close()
        if annotations.rows + dead_letters.rows != shard.rows:
            raise ValueError(
                f"shard at row {shard.first_row} of {shard.source_file}: {shard.rows} rows in, "
                f"{annotations.rows} annotations and {dead_letters.rows} dead letters out"
            )
        counts = Counts(
            labels=self._count(layout.ANNOTATIONS, "label"),
            states={m: self._count(layout.ANNOTATIONS, f"{m}_state") for m in MODALITIES},
            reasons={m: self._count(layout.ANNOTATIONS, f"{m}_reason") for m in MODALITIES},
            dead_letter_reasons=self._count(layout.DEAD_LETTERS, "reason"),
            lost_reasons=self._lost_reasons,
            histograms=self._parts[layout.ANNOTATIONS].histograms,
        )
        entry = ShardEntry(
            key=shard.key,
            base_key=shard.base_key,
            generation=shard.generation,
            first_row=shard.first_row,
            rows=shard.rows,
            name=layout.part_name(shard.source_file, shard.first_row, shard.key),
            annotations=annotations,
            dead_letters=dead_letters,
            counts=counts,
        )
        record = CommitRecord(
            partition=shard.partition,
            source_file=shard.source_file,
            identity=shard.identity,
            run_id=self._run_id,
            attempt=self._attempt,
            entry=entry,
        )
        return self._create(record)

    def discard(self) -> None:
        """Remove what was written, unless it is committed. Raises nothing."""
        if self._done:
            return
        self._done = True
        for part in self._parts.values():
            part.discard()

    def __enter__(self) -> StagedShard:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Discard what was not committed."""
        self.discard()

    def _create(self, record: CommitRecord) -> CommitRecord:
        name = layout.commit_record(record.entry.key)
        data = to_json(dataclasses.asdict(record))
        if not self._store.create(name, data):
            winner = find_commit(self._store, record.entry.key)
            # A request that was sent again after a time-out finds its own record there.
            if winner is not None and winner != record:
                self.discard()
                return winner
            # The record there names parts that are gone; this one's are there.
            self._store.write(name, data)
        self._done = True
        return record

    def _count(self, tree: str, column: str) -> dict[str, int]:
        return self._parts[tree].counts[column]


def _process_runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
