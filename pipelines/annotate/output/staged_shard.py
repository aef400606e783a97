"""A worker's side of the output: staged parts and commit records.

A worker writes the two parts of a shard under names that no other attempt has, then creates
one commit record that names both. Of several attempts at a shard one creates the record;
the others remove their own parts. Whatever a killed worker leaves is garbage that nothing
names, and the attempt record that says who was at work.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from pipelines.annotate.job import JobOptions, Shard
from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import Attempt
from pipelines.annotate.output.commit_records import CommitRecord, find_commit
from pipelines.annotate.output.ledger import Counts, ShardEntry
from pipelines.annotate.output.part_writer import CountingPartWriter
from pipelines.storage.files import Store, to_json
from schemas.annotations import annotations_schema
from schemas.dead_letters import dead_letters_schema


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
        keep: Sequence[pa.Field] = (),
    ) -> None:
        """Begin both parts. keep: fields of the kept columns."""
        self._store = store
        self._shard = shard
        self._attempt = attempt.id
        self._run_id = options.run_id
        self._lost_reasons: Counter[str] = Counter()
        schemas = {
            layout.ANNOTATIONS: annotations_schema(options.labels, keep),
            layout.DEAD_LETTERS: dead_letters_schema(),
        }
        self._parts = {
            tree: CountingPartWriter(
                store, layout.staged_part(tree, shard.key, self._attempt), schema
            )
            for tree, schema in schemas.items()
        }

    @property
    def annotations_schema(self) -> pa.Schema:
        """The schema that add_annotations takes."""
        return self._parts[layout.ANNOTATIONS].schema

    def add_annotations(self, rows: pa.Table) -> None:
        """Add annotations, in the order of source_row."""
        self._parts[layout.ANNOTATIONS].add(rows)

    def add_dead_letters(self, rows: pa.Table, modality_reasons: Iterable[str] = ()) -> None:
        """Add dead letters, in the order of source_row.

        modality_reasons: why their texts and images could not be used (fetch_failed, …), one
        item per modality that could not.
        """
        self._parts[layout.DEAD_LETTERS].add(rows)
        self._lost_reasons.update(modality_reasons)

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
            dict(self._lost_reasons),
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
        return self._create(
            CommitRecord(
                shard.source_file, shard.identity, self._run_id, self._attempt, entry, parts
            )
        )

    def discard(self) -> None:
        """Remove what was written, unless it is committed. Raises nothing."""
        parts, self._parts = self._parts, {}
        for part in parts.values():
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
        self._parts = {}
        return record
