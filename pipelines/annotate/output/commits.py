"""A worker's side of the output: staged parts and commit records.

A worker writes the two parts of a shard under names that no other attempt has, then creates
one commit record that names both. Of several attempts at a shard one creates the record;
the others remove their own parts. Whatever a killed worker leaves is garbage that nothing
names, and the attempt record that says who was at work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import Attempt, list_attempts
from pipelines.annotate.output.ledger import Counts, Part, ShardEntry
from pipelines.annotate.output.part_writer import CountingPartWriter
from pipelines.annotate.plan import JobOptions, Shard
from pipelines.storage.files import TEMPORARY, Store, to_json
from schemas.annotations import annotations_schema
from schemas.dead_letters import dead_letters_schema
from schemas.records import read_record


@dataclass(frozen=True)
class CommitRecord:
    """One committed shard, from commit to publishing.

    attempt: in its staged parts' names. parts: by tree, those that have rows.
    """

    source_file: str
    identity: str
    run_id: str
    attempt: str
    entry: ShardEntry
    parts: dict[str, Part]

    def staged(self, tree: str) -> str:
        """Return where its part of a tree is staged."""
        return layout.staged_part(tree, self.entry.key, self.attempt)


def find_commit(store: Store, key: str) -> CommitRecord | None:
    """Return a shard's commit record, None where it is not committed.

    A record whose parts are not staged any more (it is published, or somebody emptied the
    staging folder) commits nothing.
    """
    value = store.read_json(layout.commit_record(key))
    try:
        record = read_record(CommitRecord, value)
    except ValueError:
        # There is none, or one that another version of this package wrote.
        return None
    staged = all(store.size(record.staged(t)) == part.bytes for t, part in record.parts.items())
    return record if staged and record.entry.key == key else None


def committed_keys(store: Store) -> set[str]:
    """Return the keys of all commit records, their parts unchecked."""
    return {name.removesuffix(".json") for name in store.sizes(layout.COMMITS)}


def clear_shards(store: Store, keys: Iterable[str]) -> None:
    """Remove what the staging folder holds of published shards, but for attempts at work.

    Commit records go last: as long as one is there, somebody will clear the rest.
    """
    keys = set(keys)
    attempts = list_attempts(store, keys)
    at_work = {state.attempt for state in attempts if state.alive()}
    left = [
        layout.attempt_record(state.key, state.attempt)
        for state in attempts
        if state.attempt not in at_work
    ]
    for name in store.sizes(layout.STAGED_PARTS):
        key, attempt, *_ = name.split(".")
        if key in keys and attempt not in at_work:
            left.append(f"{layout.STAGED_PARTS}/{name}")
    store.for_each(store.remove, left)
    records = [layout.commit_record(key) for key in keys & committed_keys(store)]
    store.for_each(store.remove, records)


def sweep_staging(store: Store, older_than_seconds: float = 7 * 86_400) -> int:
    """Remove what nobody will ask for again; return how many files.

    That is: attempts' leftovers, commits that no plan has published for so long, parts that no
    ledger came to name, and ledgers but the newest of each partition. What is younger may
    belong to a run at work.
    """
    swept = (layout.STAGED_PARTS, layout.COMMITS, layout.ATTEMPTS, layout.FAULTS, TEMPORARY)
    folders = tuple(f"{folder}/" for folder in swept)
    staged = store.ages(layout.STAGING, recursive=True)
    ledgers = store.ages(layout.LEDGERS, recursive=True)
    newest: dict[str, int] = {}
    for name in ledgers:
        partition, _, file = name.rpartition("/")
        newest[partition] = max(newest.get(partition, 0), layout.ledger_number(file))

    def unwanted(name: str) -> bool:
        for tree in layout.TREES:
            if name.startswith(f"{layout.prepared(tree)}/"):
                partition, _, part = name[len(layout.prepared(tree)) + 1 :].rpartition("/")
                return layout.part_number(part) > newest.get(partition, 0)
        return name.startswith(folders)

    old = [
        f"{layout.STAGING}/{name}"
        for name, age in staged.items()
        if age > older_than_seconds and unwanted(f"{layout.STAGING}/{name}")
    ]
    old += [
        f"{layout.LEDGERS}/{name}"
        for name, age in ledgers.items()
        if age > older_than_seconds
        and layout.ledger_number(name.rpartition("/")[2]) < newest[name.rpartition("/")[0]]
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
        """Begin both parts.

        keep: fields of the kept columns. runtime: what computes the rows, for the parts'
        metadata.
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
        self._parts = {
            tree: CountingPartWriter(
                store,
                layout.staged_part(tree, shard.key, self._attempt),
                schema.with_metadata({**(schema.metadata or {}), **metadata}),
            )
            for tree, schema in schemas.items()
        }

    @property
    def annotations_schema(self) -> pa.Schema:
        """The schema that add_annotations takes."""
        return self._parts[layout.ANNOTATIONS].schema

    def add_annotations(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add annotations, in the order of source_row."""
        self._add(layout.ANNOTATIONS, rows)

    def add_dead_letters(
        self, rows: pa.RecordBatch | pa.Table, modality_reasons: Iterable[str] = ()
    ) -> None:
        """Add dead letters, in the order of source_row.

        modality_reasons: why their texts and images could not be used (fetch_failed, …), one
        item per modality that could not.
        """
        self._add(layout.DEAD_LETTERS, rows)
        for reason in modality_reasons:
            self._lost_reasons[reason] = self._lost_reasons.get(reason, 0) + 1

    def commit(self) -> CommitRecord:
        """Close both parts and commit the shard; return its record.

        Where another attempt committed it first, this one's parts are removed and the
        record returned is the other's. Raises ValueError unless the two parts together have
        the shard's rows, each once and in order.
        """
        shard = self._shard
        closed = {tree: writer.close() for tree, writer in self._parts.items()}
        parts = {tree: part for tree, part in closed.items() if part is not None}
        annotations, dead_letters = (parts[t].rows if t in parts else 0 for t in layout.TREES)
        if annotations + dead_letters != shard.rows:
            raise ValueError(
                f"shard at row {shard.first_row} of {shard.source_file}: {shard.rows} rows in, "
                f"{annotations} annotations and {dead_letters} dead letters out"
            )
        written = self._parts[layout.ANNOTATIONS]
        counts = Counts.of(
            written.counts,
            self._parts[layout.DEAD_LETTERS].counts,
            self._lost_reasons,
            written.histograms,
        )
        entry = ShardEntry(
            key=shard.key,
            base_key=shard.base_key,
            generation=shard.generation,
            first_row=shard.first_row,
            rows=shard.rows,
            annotations=annotations,
            dead_letters=dead_letters,
            counts=counts,
        )
        record = CommitRecord(
            source_file=shard.source_file,
            identity=shard.identity,
            run_id=self._run_id,
            attempt=self._attempt,
            entry=entry,
            parts=parts,
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

    def _add(self, tree: str, rows: pa.RecordBatch | pa.Table) -> None:
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        self._parts[tree].add(table)
