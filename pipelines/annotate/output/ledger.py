"""The ledger of a partition: which parts it has, of which input files, with which counts.

It lies beside the parts it describes (`_parts.json`), so deleting the folder deletes it,
and it is what "published" means. Shard entries enter it from commit records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.annotate.output import layout
from pipelines.annotate.output.histograms import Histograms, sum_histograms
from pipelines.storage.files import OutputError, Store
from schemas.records import read_record

LEDGER_VERSION = 1


@dataclass(frozen=True)
class Part:
    """One Parquet file: its rows, bytes and the SHA-256 of its bytes, hexadecimal."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Counts:
    """How many rows of a shard have what, counted from the rows as they were written.

    labels: annotations by label. states, reasons: annotations by modality, then state or
    reason. dead_letter_reasons: dead letters by reason. lost_reasons: of the dead letters'
    modalities, why they could not be used, so that --retry finds those posts too.
    histograms: of the annotations; empty where an older version of this package wrote them.
    """

    labels: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    dead_letter_reasons: dict[str, int] = field(default_factory=dict)
    lost_reasons: dict[str, int] = field(default_factory=dict)
    histograms: Histograms = field(default_factory=Histograms)

    def all_reasons(self) -> set[str]:
        """Return every reason that occurs in the shard."""
        modality_reasons = (reason for by in self.reasons.values() for reason in by)
        return {*modality_reasons, *self.dead_letter_reasons, *self.lost_reasons}


def sum_counts(counts: Iterable[Counts]) -> Counts:
    """Return the sum of counts."""
    counts = list(counts)
    total = Counts(histograms=sum_histograms(one.histograms for one in counts))
    for one in counts:
        for name in ("labels", "dead_letter_reasons", "lost_reasons"):
            _add(getattr(total, name), getattr(one, name))
        for name in ("states", "reasons"):
            for modality, by in getattr(one, name).items():
                _add(getattr(total, name).setdefault(modality, {}), by)
    return total


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for key, number in more.items():
        total[key] = total.get(key, 0) + number


@dataclass(frozen=True)
class ShardEntry:
    """A committed shard: its two parts and counts. name: of the published parts."""

    key: str
    base_key: str
    generation: int
    first_row: int
    rows: int
    name: str
    annotations: Part
    dead_letters: Part
    counts: Counts

    def part(self, tree: str) -> Part:
        """Return its part of one of the two trees."""
        return self.annotations if tree == layout.ANNOTATIONS else self.dead_letters


@dataclass(frozen=True)
class LedgerFile:
    """One published input file.

    path: of the input, without credentials. rows: by the input's own footer, read when it
    was published. shards: in row order.
    """

    path: str
    identity: str
    rows: int
    shards: tuple[ShardEntry, ...]

    @property
    def annotations(self) -> int:
        """Rows of its annotation parts."""
        return sum(shard.annotations.rows for shard in self.shards)

    @property
    def dead_letters(self) -> int:
        """Rows of its dead-letter parts."""
        return sum(shard.dead_letters.rows for shard in self.shards)


@dataclass(frozen=True)
class UnpublishedFile:
    """An input file that a run could not publish. error: one readable line."""

    path: str
    error: str


@dataclass(frozen=True)
class Ledger:
    """What is published of one partition.

    files: by source_file. unpublished: input files that the last runs could not publish (an
    earlier version may still be in files); while there is one, the partition is not complete.
    duplicate_ids: posts whose id had already occurred in the partition.
    """

    labels: tuple[str, ...]
    files: dict[str, LedgerFile] = field(default_factory=dict)
    unpublished: dict[str, UnpublishedFile] = field(default_factory=dict)
    duplicate_ids: int = 0

    def names(self) -> set[str]:
        """Return the names of all its parts."""
        return {shard.name for file in self.files.values() for shard in file.shards}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"version": LEDGER_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ledger:
        """Return the ledger that to_json wrote; KeyError, TypeError, ValueError if it is none."""
        if value["version"] != LEDGER_VERSION:
            raise ValueError(f"version {value['version']}, expected {LEDGER_VERSION}")
        return read_record(cls, value)


def read_ledger(store: Store, partition: str) -> Ledger | None:
    """Return the ledger of a partition, None where it has none.

    Raises OutputError where the file is damaged or of another version.
    """
    name = layout.in_partition(layout.ANNOTATIONS, partition, layout.LEDGER)
    value = store.read_json(name)
    if value is None:
        return None
    try:
        return Ledger.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(
            f"{store.url}/{name} is no ledger this version can read ({error}); "
            "delete that partition's folder, its input is annotated again"
        ) from error


def write_ledger(store: Store, partition: str, ledger: Ledger) -> None:
    """Write the ledger of a partition."""
    name = layout.in_partition(layout.ANNOTATIONS, partition, layout.LEDGER)
    store.write_json(name, ledger.to_json())
