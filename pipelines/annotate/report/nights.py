"""What one night's posts came to, in the short form in which nights are compared.

A night is a partition that is named by a date; where partitions are not, it is what a run
published. Its record is a line of `_runs/index.jsonl`, so that comparing nights reads one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.annotate.output.histograms import BINS, Histograms, sum_histograms
from pipelines.annotate.output.ledger import Counts, sum_counts
from pipelines.annotate.report.significance import Moments
from schemas.annotations import MODALITIES

_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_YEAR_MONTH_DAY = re.compile(r"year=(\d{4})/month=(\d{1,2})/day=(\d{1,2})(?!\d)")


@dataclass(frozen=True)
class Night:
    """One night's counts.

    name: its partition, or the run's id. key: sorts nights by time. rows: annotations and dead
    letters. quality: by modality, rows per bin of quality of the posts that have it. confidence:
    sum and sum of squares. staged: it is held back, its rows are not published. in_reference: its
    posts are among those that the checkpoint's qualities are ranked among.
    """

    name: str
    key: str
    run_id: str
    model_revision: str
    rows: int = 0
    annotations: int = 0
    dead_letters: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    dead_letter_reasons: dict[str, int] = field(default_factory=dict)
    damage: dict[str, dict[str, int]] = field(default_factory=dict)
    quality: dict[str, list[int]] = field(default_factory=dict)
    confidence: list[float] = field(default_factory=lambda: [0.0, 0.0])
    staged: bool = False
    in_reference: bool = False

    def usable(self, modality: str) -> int:
        """Posts that have the modality."""
        return sum(self.quality.get(modality, ()))

    def below(self, modality: str) -> int:
        """Of those, posts in the lowest bin of quality."""
        return next(iter(self.quality.get(modality, ())), 0)

    def moments(self) -> Moments:
        """Of the confidence of its labels."""
        return Moments(self.annotations, *self.confidence)


def make_night(
    name: str,
    key: str,
    run_id: str,
    model_revision: str,
    shards: Sequence[Counts],
    *,
    staged: bool = False,
    in_reference: bool = False,
) -> tuple[Night, Histograms]:
    """Return a night from the counts of its shards, and its histograms."""
    counts = sum_counts(shards)
    histograms = sum_histograms(shard.histograms for shard in shards)
    annotations = sum(counts.labels.values())
    dead_letters = sum(counts.dead_letter_reasons.values())
    by_label = histograms.moments.get("label", {})
    night = Night(
        name=name,
        key=key,
        run_id=run_id,
        model_revision=model_revision,
        rows=annotations + dead_letters,
        annotations=annotations,
        dead_letters=dead_letters,
        labels=counts.labels,
        states=counts.states,
        reasons=counts.reasons,
        dead_letter_reasons=counts.dead_letter_reasons,
        damage=histograms.damage,
        quality={m: _usable(histograms.quality.get(m, {})) for m in MODALITIES},
        confidence=[sum(of) for of in zip(*by_label.values(), strict=True)] or [0.0, 0.0],
        staged=staged,
        in_reference=in_reference,
    )
    return night, histograms


def night_key(partition: str, otherwise: str) -> str | None:
    """Return what sorts the night by time: its partition's date, None where it names none.

    otherwise: the key of a partition without a name, when its run started.
    """
    if not partition:
        return otherwise
    match = _YEAR_MONTH_DAY.search(partition) or _DATE.search(partition)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups())
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{year:04d}-{month:02d}-{day:02d}"


def earlier_nights(known: Iterable[Night], night: Night) -> list[Night]:
    """Return the nights before a night, by time; of each the record that was written last."""
    latest = {one.name: one for one in known if one.key < night.key and one.name != night.name}
    return sorted(latest.values(), key=lambda one: (one.key, one.name))


def _usable(states: Mapping[str, Sequence[int]]) -> list[int]:
    """Rows per bin of quality, but for those whose quality is that of recovered features."""
    kept = [bins for state, bins in states.items() if state != "recovered"]
    return [sum(of) for of in zip(*kept, strict=True)] if kept else [0] * BINS
