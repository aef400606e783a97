"""The ledger of a partition: which parts it has, with which shards of which input files.

It is what "published" means: what it does not name is no part. A partition's ledgers are
numbered, and the highest is the one that holds. Each is created on the condition, which the
store itself checks, that there is none of its number yet: of two runs that decided on the
same state one commits, and the other reads again and decides anew. Shard entries enter a
ledger from commit records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.annotate.output.histograms import Histograms, add_counts, sum_histograms
from schemas.annotations import MODALITIES

# The columns whose values are counted as parts are written; `Counts.of` says what becomes of them.
COUNTED = {"label", "reason", *(f"{m}_{what}" for m in MODALITIES for what in ("state", "reason"))}
Counted = Mapping[str, dict[str, int]]


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
    histograms: of the annotations.
    """

    labels: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    dead_letter_reasons: dict[str, int] = field(default_factory=dict)
    lost_reasons: dict[str, int] = field(default_factory=dict)
    histograms: Histograms = field(default_factory=Histograms)

    @classmethod
    def of(
        cls,
        annotations: Counted,
        dead_letters: Counted,
        lost_reasons: dict[str, int],
        histograms: Histograms,
    ) -> Counts:
        """Counts of a shard: of each counted column of its two parts, and what is not in one."""
        return cls(
            labels=annotations["label"],
            states={m: annotations[f"{m}_state"] for m in MODALITIES},
            reasons={m: annotations[f"{m}_reason"] for m in MODALITIES},
            dead_letter_reasons=dead_letters["reason"],
            lost_reasons=lost_reasons,
            histograms=histograms,
        )

    def all_reasons(self) -> set[str]:
        """Return every reason that occurs in the shard."""
        modality_reasons = (reason for by in self.reasons.values() for reason in by)
        return {*modality_reasons, *self.dead_letter_reasons, *self.lost_reasons}


def sum_counts(counts: Iterable[Counts]) -> Counts:
    """Return the sum of counts."""
    counts = list(counts)
    total = Counts(histograms=sum_histograms(one.histograms for one in counts))
    for one in counts:
        for name in ("labels", "states", "reasons", "dead_letter_reasons", "lost_reasons"):
            add_counts(getattr(total, name), getattr(one, name))
    return total


@dataclass(frozen=True)
class ShardEntry:
    """A committed shard. rows: annotations and dead letters together.

    part: the name of the published part that holds its rows, once it has one.
    """

    key: str
    base_key: str
    generation: int
    first_row: int
    rows: int
    annotations: int
    dead_letters: int
    counts: Counts
    part: str = ""


@dataclass(frozen=True)
class LedgerFile:
    """One published input file.

    path: of the input, without credentials. rows: by the input's own footer, read when it
    was published. shards: in row order. planned_at: when the run that published it was
    planned, seconds since 1970.
    """

    path: str
    identity: str
    rows: int
    shards: tuple[ShardEntry, ...]
    planned_at: float = 0.0

    @property
    def annotations(self) -> int:
        """Its annotated rows."""
        return sum(shard.annotations for shard in self.shards)

    @property
    def dead_letters(self) -> int:
        """Its rows that could not be annotated."""
        return sum(shard.dead_letters for shard in self.shards)


@dataclass(frozen=True)
class UnpublishedFile:
    """An input file that keeps its partition from being complete. error: one readable line.

    gone: it is not there any more, and its posts are still published.
    """

    path: str
    error: str
    gone: bool = False


@dataclass(frozen=True)
class Ledger:
    """What is published of one partition.

    files: by source_file. parts: by tree, then name; a part holds whole shards, of one input
    file or of many small ones. unpublished: input files that the last runs could not publish (an
    earlier version may still be in files); while there is one, the partition is not complete.
    duplicate_ids: posts whose id had already occurred in the partition. kept: fields of the
    kept columns that its parts have (pipelines.posts.column_types), None where none was added yet.
    """

    labels: tuple[str, ...]
    files: dict[str, LedgerFile] = field(default_factory=dict)
    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    unpublished: dict[str, UnpublishedFile] = field(default_factory=dict)
    duplicate_ids: int = 0
    kept: str | None = None

    def shards_of_parts(self) -> dict[str, list[tuple[str, ShardEntry]]]:
        """Return, by the name of each part, its shards with the source files that they are of."""
        shards: dict[str, list[tuple[str, ShardEntry]]] = {}
        for source_file, file in self.files.items():
            for shard in file.shards:
                if shard.part:
                    shards.setdefault(shard.part, []).append((source_file, shard))
        return shards

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a part in both trees."""
        return sum(parts[name].bytes for parts in self.parts.values() if name in parts)
