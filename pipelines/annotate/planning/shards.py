"""Cutting files into shards, naming shards by what their rows depend on, filling work units."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from drf_core.decoding import PREPARATION_VERSION
from pipelines.annotate.job import JobOptions, RowOptions, Shard, WorkUnit
from pipelines.posts.input_files import InputFile, RowGroup, RowRange
from pipelines.storage.files import to_json
from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION

SHARD_ROWS = 10_000
SHARD_BYTES = 256 * 1024 * 1024

# Enough rows that batches fill; few enough that a lost unit costs little.
UNIT_ROWS = 2_000
UNIT_BYTES = 128 * 1024 * 1024
_FEWEST_UNIT_ROWS = 64


def cut_shards(
    file: InputFile,
    options: JobOptions,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[Shard, ...]:
    """Return the file's shards in row order, at least one.

    Shards end where row groups end, at most shard_rows and shard_bytes each; a row group
    larger than that is cut into ranges of rows. A file without rows is one shard without
    rows and row groups, so that it has its (empty) parts like any other. How a file is cut
    depends on nothing but the file and the two limits: keys must be the same in every run.
    """
    nothing = RowRange(file.source_file, 0, 0, ())
    ranges = [*_ranges(file, shard_rows, shard_bytes)] or [nothing]
    return tuple(_shard(file, options, cut) for cut in ranges)


def _ranges(file: InputFile, shard_rows: int, shard_bytes: int) -> Iterator[RowRange]:
    row = start = rows = size = 0
    groups: list[int] = []
    for index, group in enumerate(file.row_groups):
        if group.rows == 0:
            continue
        if groups and (rows + group.rows > shard_rows or size + group.bytes > shard_bytes):
            yield RowRange(file.source_file, start, rows, tuple(groups))
            groups, start, rows, size = [], row, 0, 0
        if group.rows > shard_rows or group.bytes > shard_bytes:
            pieces = max(-(-group.rows // shard_rows), -(-group.bytes // shard_bytes))
            step = -(-group.rows // min(pieces, group.rows))
            for skip in range(0, group.rows, step):
                some = min(step, group.rows - skip)
                yield RowRange(file.source_file, row + skip, some, (index,))
            start = row + group.rows
        else:
            groups.append(index)
            rows += group.rows
            size += group.bytes
        row += group.rows
    if groups:
        yield RowRange(file.source_file, start, rows, tuple(groups))


def _shard(file: InputFile, options: JobOptions, cut: RowRange) -> Shard:
    key = _base_key(file, options, cut)
    return Shard(
        **vars(cut),
        path=file.path,
        partition=file.partition,
        identity=file.identity,
        base_key=key,
        key=key,
    )


@functools.cache
def _as_json(options: RowOptions) -> dict[str, Any]:
    """Return the options as a key has them; once, as thousands of shards share them."""
    rows = dataclasses.asdict(options)
    rows["image_uri_prefixes"] = sorted(set(rows["image_uri_prefixes"]))
    return rows


def _base_key(file: InputFile, options: JobOptions, cut: RowRange) -> str:
    depends_on = [
        file.identity,
        file.source_file,
        cut.first_row,
        cut.rows,
        options.model_revision,
        _as_json(options.rows),
        ANNOTATIONS_SCHEMA_VERSION,
        PREPARATION_VERSION,
    ]
    return hashlib.sha256(to_json(depends_on)).hexdigest()[:40]


def in_generation(shard: Shard, generation: int) -> Shard:
    """Return the shard as --retry asks for it: the same rows under the key of a generation."""
    key = shard.base_key
    if generation:
        key = hashlib.sha256(f"{shard.base_key}:{generation}".encode()).hexdigest()[:40]
    return dataclasses.replace(shard, key=key, generation=generation)


def fill_units(
    shards: Iterable[Shard], sizes: Sequence[InputFile], workers: int = 1
) -> tuple[WorkUnit, ...]:
    """Return work units that hold the shards, in their order.

    Shards of one row group share a unit, which is streamed once. Tiny shards share one up to
    UNIT_ROWS and UNIT_BYTES, fewer where that would leave workers idle: about two units per
    worker where the rows allow. sizes: the shards' files.
    """
    groups = {file.source_file: file.row_groups for file in sizes}
    runs = [list(run) for run in _runs_of_a_row_group(shards)]
    total = sum(shard.rows for run in runs for shard in run)
    most = min(UNIT_ROWS, max(_FEWEST_UNIT_ROWS, -(-total // (2 * max(1, workers)))))
    units: list[WorkUnit] = []
    unit: list[Shard] = []
    rows = size = 0
    for run in runs:
        run_rows = sum(shard.rows for shard in run)
        run_size = sum(_bytes(shard, groups[shard.source_file]) for shard in run)
        if unit and (rows + run_rows > most or size + run_size > UNIT_BYTES):
            units.append(WorkUnit(tuple(unit)))
            unit, rows, size = [], 0, 0
        unit += run
        rows += run_rows
        size += run_size
    if unit:
        units.append(WorkUnit(tuple(unit)))
    return tuple(units)


def _runs_of_a_row_group(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    for shard in shards:
        same = (
            run
            and len(shard.row_groups) == 1
            and run[-1].source_file == shard.source_file
            and run[-1].row_groups == shard.row_groups
        )
        if run and not same:
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _bytes(shard: Shard, groups: Sequence[RowGroup]) -> int:
    """Return about how many uncompressed bytes a shard's columns have."""
    held = [groups[index] for index in shard.row_groups]
    rows = sum(group.rows for group in held)
    size = sum(group.bytes for group in held)
    return size * shard.rows // rows if rows else 0
