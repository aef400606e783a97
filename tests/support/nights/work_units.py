"""Work units as tests call them: shards of a file, annotated in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.annotate.job import JobOptions, Shard, ShardOutcome, WorkUnit
from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import find_commit
from pipelines.annotate.work.annotate_unit import annotate_unit
from pipelines.posts.inputs import read_footer
from pipelines.storage.backends import open_url
from pipelines.storage.files import open_store


def shards_of(path: Path, rows: int | None = None) -> list[Shard]:
    """Shards of `rows` rows each over one file, cut without regard to row groups."""
    footer = read_footer(*open_url(str(path)))
    starts = [0]
    for group in footer.row_groups(()):
        starts.append(starts[-1] + group.rows)
    total = footer.rows
    shards = []
    for first in range(0, total, rows or total) if total else [0]:
        last = min(first + (rows or total), total)
        groups = tuple(
            group
            for group in range(len(starts) - 1)
            if starts[group] < last and starts[group + 1] > first
        )
        key = f"{path.stem}-{first:04d}".ljust(64, "0")
        shards.append(
            Shard(
                path=str(path),
                source_file=path.name,
                partition="",
                identity=footer.identity,
                first_row=first,
                rows=last - first,
                row_groups=groups,
                base_key=key,
                key=key,
            )
        )
    return shards


def annotate(shards: Sequence[Shard], options: JobOptions) -> list[ShardOutcome]:
    return list(annotate_unit(WorkUnit(tuple(shards)), options))


def staged_rows(shard: Shard, options: JobOptions, tree: str) -> list[dict[str, Any]]:
    store = open_store(options.output)
    record = find_commit(store, shard.key)
    assert record is not None
    if tree not in record.parts:
        return []
    return pq.read_table(store.full(record.staged(tree))).to_pylist()


def annotations(shard: Shard, options: JobOptions) -> list[dict[str, Any]]:
    return staged_rows(shard, options, layout.ANNOTATIONS)


def dead_letters(shard: Shard, options: JobOptions) -> list[dict[str, Any]]:
    return staged_rows(shard, options, layout.DEAD_LETTERS)


def staging_files(options: JobOptions, folder: str) -> list[str]:
    return list(open_store(options.output).sizes(folder))
