"""The nights of a run: their counts from ledgers and commit records, and where their rows lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipelines.annotate.output import layout
from pipelines.annotate.output.commits import CommitRecord, find_commit
from pipelines.annotate.output.histograms import Histograms, count_histograms
from pipelines.annotate.output.ledger import Counts, LedgerFile, ShardEntry, read_ledger
from pipelines.annotate.output.part_file import StoredFile
from pipelines.annotate.plan import Plan
from pipelines.annotate.report.nights import Night, make_night, night_key
from pipelines.storage.files import Store, in_parallel
from schemas.annotations import ANNOTATION_COLUMNS
from schemas.manifest import Manifest

_PUBLISHED = ("published", "up_to_date")

# Of a held-back partition so many dead letters are named, and so many parts of them read.
_MOST_LETTERS = 20
_MOST_PARTS = 20


@dataclass(frozen=True)
class RunNight:
    """A night of a run.

    places: Parquet files or globs below the output that hold its annotations. whole: whether
    they hold nothing else. bytes: of its parts in both trees.
    """

    night: Night
    histograms: Histograms
    places: tuple[str, ...]
    whole: bool
    bytes: int


def gather_nights(
    store: Store,
    manifest: Manifest,
    plan: Plan | None = None,
    reference_files: Sequence[str] = (),
    recount: bool = False,
) -> list[RunNight]:
    """Return the nights that a run changed, or would have; else the last one it is about.

    plan: of the run, where held-back partitions are told from what is staged. reference_files:
    source files whose posts are in the checkpoint's reference. recount: read the parts of
    shards that an older version wrote, without histograms.
    """
    by_partition: dict[str, list[str]] = {}
    for file in manifest.files:
        by_partition.setdefault(file.partition, []).append(file.source_file)
    published = {f.source_file for f in manifest.files if f.status == "published"}
    usable = {f.source_file for f in manifest.files if f.status in _PUBLISHED}
    held_back = {name for name, status in manifest.partitions.items() if status == "held_back"}
    dated = {
        partition: key
        for partition in by_partition
        if partition and (key := night_key(partition, manifest.started_at))
    }
    touched = [
        partition
        for partition, files in by_partition.items()
        if partition in held_back or published & set(files)
    ]
    found = [
        _dated_night(store, manifest, partition, dated[partition], plan, reference_files, recount)
        for partition in touched
        if partition in dated
    ]
    others = {p: files for p, files in by_partition.items() if p not in dated}
    if others and (not dated or set(touched) & set(others)):
        wanted = published or usable
        found.append(
            _undated_night(store, manifest, others, wanted, plan, reference_files, recount)
        )
    if not found and dated:
        last = max(dated, key=lambda partition: dated[partition])
        found.append(
            _dated_night(store, manifest, last, dated[last], None, reference_files, recount)
        )
    return sorted(found, key=lambda one: (one.night.key, one.night.name))


def _dated_night(
    store: Store,
    manifest: Manifest,
    partition: str,
    key: str,
    plan: Plan | None,
    reference_files: Sequence[str],
    recount: bool,
) -> RunNight:
    files = _ledger_files(store, partition)
    records = _staged(store, manifest, partition, plan)
    entries = [shard for file in files.values() for shard in file.shards]
    places: tuple[str, ...] = (layout.in_partition(layout.ANNOTATIONS, partition, "*.parquet"),)
    if records:
        entries = [record.entry for record in records]
        places = tuple(record.entry.staged(layout.ANNOTATIONS) for record in records)
    night, histograms = make_night(
        partition,
        key,
        manifest.run_id,
        manifest.model_revision,
        _counts(store, partition, entries, recount and not records),
        staged=bool(records),
        in_reference=any(_named(name, reference_files) for name in files),
    )
    return RunNight(night, histograms, places, True, _bytes(entries))


def _undated_night(
    store: Store,
    manifest: Manifest,
    partitions: Mapping[str, Sequence[str]],
    wanted: set[str],
    plan: Plan | None,
    reference_files: Sequence[str],
    recount: bool,
) -> RunNight:
    counts: list[Counts] = []
    places: list[str] = []
    size, whole, staged = 0, True, False
    names: set[str] = set()
    for partition, named in partitions.items():
        records = _staged(store, manifest, partition, plan)
        files = _ledger_files(store, partition)
        chosen = {name: file for name, file in files.items() if name in wanted and name in named}
        entries = [shard for file in chosen.values() for shard in file.shards]
        if records:
            entries = [record.entry for record in records]
            places += [record.entry.staged(layout.ANNOTATIONS) for record in records]
            staged = True
        elif chosen:
            places.append(layout.in_partition(layout.ANNOTATIONS, partition, "*.parquet"))
            whole = whole and len(chosen) == len(files)
        names |= chosen.keys()
        counts += _counts(store, partition, entries, recount and not records)
        size += _bytes(entries)
    night, histograms = make_night(
        manifest.run_id,
        manifest.started_at,
        manifest.run_id,
        manifest.model_revision,
        counts,
        staged=staged,
        in_reference=any(_named(name, reference_files) for name in names),
    )
    return RunNight(night, histograms, tuple(places), whole, size)


def held_back_letters(store: Store, records: Iterable[CommitRecord]) -> list[dict[str, Any]]:
    """Return some dead letters that are staged and not published: which posts, and why."""
    letters: list[dict[str, Any]] = []
    dead = [record for record in records if record.entry.dead_letters.rows]
    for record in dead[:_MOST_PARTS]:
        place = record.entry.staged(layout.DEAD_LETTERS)
        table = pq.read_table(StoredFile(store, place, record.entry.dead_letters.bytes))
        letters += table.slice(0, _MOST_LETTERS - len(letters)).to_pylist()
        if len(letters) >= _MOST_LETTERS:
            break
    return letters


def staged_records(store: Store, plan: Plan, partition: str) -> list[CommitRecord]:
    """Return the commit records of what a plan wants in a partition, as far as there are."""
    shards = [
        shard
        for file in plan.files
        if file.partition == partition
        for shard in plan.shards[file.source_file]
    ]
    records = in_parallel(lambda shard: find_commit(store, shard.key), shards)
    return [record for record in records if record is not None]


def _staged(
    store: Store, manifest: Manifest, partition: str, plan: Plan | None
) -> list[CommitRecord]:
    if plan is None or manifest.partitions.get(partition) != "held_back":
        return []
    return staged_records(store, plan, partition)


def _ledger_files(store: Store, partition: str) -> dict[str, LedgerFile]:
    ledger = read_ledger(store, partition)
    return ledger.files if ledger else {}


def _named(source_file: str, reference_files: Sequence[str]) -> bool:
    return any(source_file == name or name.endswith(f"/{source_file}") for name in reference_files)


def _bytes(entries: Iterable[ShardEntry]) -> int:
    return sum(entry.part(tree).bytes for entry in entries for tree in layout.TREES)


def _counts(
    store: Store, partition: str, entries: Sequence[ShardEntry], recount: bool
) -> list[Counts]:
    def count(entry: ShardEntry) -> Counts:
        counts = entry.counts
        if not recount or counts.histograms.confidence or not entry.annotations.rows:
            return counts
        place = layout.in_partition(layout.ANNOTATIONS, partition, entry.name)
        part = pq.ParquetFile(StoredFile(store, place, entry.annotations.bytes))
        unread = {"post_id", "probabilities", "source_file", "source_row", "annotated_at"}
        wanted = [
            name
            for name in part.schema_arrow.names
            if name not in unread or name not in ANNOTATION_COLUMNS
        ]
        table = part.read(wanted, use_threads=False)
        return Counts(
            **{
                **vars(counts),
                "histograms": count_histograms(table),
            }
        )

    return in_parallel(count, entries, workers=4)
