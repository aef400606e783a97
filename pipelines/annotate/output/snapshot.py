"""Reading what is published by its ledgers: every post once, whatever is published meanwhile."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.annotate.output import layout
from pipelines.annotate.output.partition_state import read_ledgers
from pipelines.storage.files import Store, open_store
from schemas.dead_letters import dead_letters_schema


def annotation_files(url: str, tree: str = layout.ANNOTATIONS) -> list[str]:
    """Return the files that hold an output's posts, each once, for whatever reads lists of files.

    url: of the output. tree: annotations or dead_letters. Of each partition they are those of
    one ledger, its newest. One that a run has replaced by the time it is read is gone, which
    its reader says; then ask again. Raises OutputError.
    """
    store = open_store(url)
    prefix = "" if store.local else str(store.fs.unstrip_protocol(store.root))[: -len(store.root)]
    return [f"{prefix}{store.full(name)}" for name in _names(store, tree)]


def read_annotations(url: str, tree: str = layout.ANNOTATIONS) -> ds.Dataset:
    """Return an output's posts as a dataset of pyarrow, with the partitions' keys as columns.

    url, tree: as in annotation_files. Raises OutputError.
    """
    store = open_store(url)
    paths = [store.full(name) for name in _names(store, tree)]
    if not paths:
        # Without files nobody can tell which labels annotations would have.
        lost = tree == layout.DEAD_LETTERS
        return ds.dataset(dead_letters_schema().empty_table() if lost else pa.table({}))
    return ds.dataset(paths, format="parquet", filesystem=store.fs, partitioning="hive")


def _names(store: Store, tree: str) -> list[str]:
    ledgers = read_ledgers(store)
    # After the ledgers: what one of them names and is not there yet is where it was staged.
    there = store.sizes(tree, recursive=True)
    names = []
    for partition, ledger in ledgers.items():
        for part in ledger.parts.get(tree, {}):
            name = layout.in_partition(tree, partition, part)
            placed = name[len(tree) + 1 :] in there
            names.append(
                name if placed else layout.in_partition(layout.prepared(tree), partition, part)
            )
    return names
