"""The nights of a run: their counts from ledgers and commit records, and where their rows lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import CommitRecord, find_commit
from pipelines.annotate.output.histograms import Histograms
from pipelines.annotate.output.ledger import Counts, Ledger
from pipelines.annotate.output.part_reader import StoredFile, read_here
from pipelines.annotate.output.partition_state import read_ledger
from pipelines.annotate.report.nights import Night, make_night, night_key
from pipelines.storage.files import Store, in_parallel
from schemas.manifest import Manifest

_PUBLISHED = ("published", "up_to_date")

# Of a held-back partition so many dead letters are named, and so many parts of them read.
_MOST_LETTERS = 20
_MOST_PARTS = 20


@dataclass(frozen=True)
class RunNight:
    """A night of a run.

    places: by tree, Parquet files or globs below the output that hold its rows. whole: whether
    they hold nothing else. bytes: of its parts in both trees.
    """

    night: Night
    histograms: Histograms
    places: Mapping[str, Sequence[str]]
    whole: bool
    bytes: int


def gather_nights(
    store: Store,
    manifest: Manifest,
    plan: Plan | None = None,
    reference_files: Sequence[str] = (),
) -> list[RunNight]:
    """Return the nights that a run changed, or would have; else the last one it is about.

    plan: of the run, where held-back partitions are told from what is staged. reference_files:
    source files whose posts are in the checkpoint's reference.
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
        _night(
            store, manifest, partition, dated[partition], {partition: None}, plan, reference_files
        )
        for partition in touched
        if partition in dated
    ]
    others = {p: files for p, files in by_partition.items() if p not in dated}
    if others and (not dated or set(touched) & set(others)):
        wanted = {p: (published or usable).intersection(files) for p, files in others.items()}
        name, key = manifest.run_id, manifest.started_at
        found.append(_night(store, manifest, name, key, wanted, plan, reference_files))
    if not found and dated:
        last = max(dated, key=lambda partition: dated[partition])
        found.append(
            _night(store, manifest, last, dated[last], {last: None}, None, reference_files)
        )
    return sorted(found, key=lambda one: (one.night.key, one.night.name))


def _night(
    store: Store,
    manifest: Manifest,
    name: str,
    key: str,
    wanted: Mapping[str, Collection[str] | None],
    plan: Plan | None,
    reference_files: Sequence[str],
) -> RunNight:
    """Return a night of some partitions. wanted: by partition, its source files, None for all."""
    counts: list[Counts] = []
    places: dict[str, list[str]] = {tree: [] for tree in layout.TREES}
    size, whole, staged = 0, True, False
    names: set[str] = set()
    for partition, named in wanted.items():
        ledger = read_ledger(store, partition) or Ledger(())
        chosen = {n: f for n, f in ledger.files.items() if named is None or n in named}
        names |= chosen.keys()
        if records := _staged(store, manifest, partition, plan):
            staged = True
            counts += [record.entry.counts for record in records]
            size += sum(part.bytes for record in records for part in record.parts.values())
            for tree in layout.TREES:
                places[tree] += [r.staged(tree) for r in records if tree in r.parts]
        elif chosen:
            shards = [shard for file in chosen.values() for shard in file.shards]
            counts += [shard.counts for shard in shards]
            size += sum(ledger.bytes_of(part) for part in {shard.part for shard in shards})
            whole = whole and len(chosen) == len(ledger.files)
            for tree in layout.TREES:
                glob = layout.in_partition(tree, partition, "*.parquet")
                places[tree] += [glob] if ledger.parts.get(tree) else []
    night, histograms = make_night(
        name,
        key,
        manifest.run_id,
        manifest.model_revision,
        counts,
        staged=staged,
        in_reference=any(_named(one, reference_files) for one in names),
    )
    return RunNight(night, histograms, places, whole, size)


def held_back_letters(store: Store, records: Iterable[CommitRecord]) -> list[dict[str, Any]]:
    """Return some dead letters that are staged and not published: which posts, and why."""
    letters: list[dict[str, Any]] = []
    dead = [record for record in records if layout.DEAD_LETTERS in record.parts]
    for record in dead[:_MOST_PARTS]:
        part = record.parts[layout.DEAD_LETTERS]
        file = StoredFile(store, record.staged(layout.DEAD_LETTERS), part.bytes)
        table = read_here(file).read(use_threads=False)
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


def _named(source_file: str, reference_files: Sequence[str]) -> bool:
    return any(source_file == name or name.endswith(f"/{source_file}") for name in reference_files)
