"""Commit records: which shards are computed, and where their parts are staged."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Part, ShardEntry
from pipelines.storage.files import Store
from schemas.read_record import read_record


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
