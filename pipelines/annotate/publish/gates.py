"""What holds a partition back, or calls for a look: shares that say that something is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipelines.annotate.job import JobOptions
from pipelines.annotate.output.ledger import Counts, Ledger, sum_counts
from schemas.annotations import MODALITIES
from schemas.reasons import ModalityReason

# Why an address gave no image for reasons of its host, not of the post.
_OF_HOSTS = (
    ModalityReason.BUSY,
    ModalityReason.FETCH_TIMED_OUT,
    ModalityReason.TLS_FAILED,
    ModalityReason.DNS_FAILED,
    ModalityReason.FETCH_FAILED,
)
# Of fewer posts a share says nothing of their hosts, or of the night.
_FEWEST_POSTS = 20

# Where no limit is given, more than these are told. Labels may move by chance, too.
_TOLD_FETCH_FAILED = 0.05
_TOLD_SHARE = 0.5
_TOLD_LABEL_SHIFT = 0.2


@dataclass(frozen=True)
class _Finding:
    """A share of a partition's posts. what: it is of, as half a sentence.

    limit: of the option, above which the partition is held back; told: above which it is told.
    """

    what: str
    share: float
    option: str
    limit: float
    told: float
    way_out: str = ""


def why_held_back(
    ledger: Ledger, options: JobOptions, usual: Mapping[str, int] | None = None
) -> str | None:
    """Why a partition with this ledger is not published, None where it may be.

    usual: labels of the nights before it, counted.
    """
    for one in _findings(ledger, options, usual or {}):
        if one.share > one.limit:
            return (
                f"held back: {one.what}, more than {one.option} {one.limit:g}; look at the input, "
                "or run again with a higher share (within 7 days nothing is annotated twice)"
                + one.way_out
            )
    return None


def what_to_look_at(
    ledger: Ledger, options: JobOptions, usual: Mapping[str, int] | None = None
) -> tuple[str, ...]:
    """What of a partition that is published calls for a look, a sentence each."""
    return tuple(
        f"{one.what}; {one.option} holds such a night back"
        for one in _findings(ledger, options, usual or {})
        if one.share > one.told
    )


def _findings(ledger: Ledger, options: JobOptions, usual: Mapping[str, int]) -> Iterator[_Finding]:
    rows = sum(file.rows for file in ledger.files.values())
    if rows == 0:
        return
    dead = sum(file.dead_letters for file in ledger.files.values())
    counts = sum_counts(shard.counts for file in ledger.files.values() for shard in file.shards)
    why = _listed(counts.dead_letter_reasons.items())
    what = _of(dead, rows, "are dead letters", why)
    limit = options.max_dead_letter_share
    yield _Finding(what, dead / rows, "--max-dead-letter-share", limit, told=1.0)
    few = rows < _FEWEST_POSTS
    failed = sum(_of_image(counts, reason) for reason in _OF_HOSTS)
    if not few:
        why = _listed((str(r), n) for r in _OF_HOSTS if (n := _of_image(counts, r)))
        what = _of(failed, rows, "have no image because of its host", why)
        limit, again = (
            options.max_fetch_failed_share,
            "; when the host is back: --retry fetch_failed",
        )
        yield _Finding(
            what, failed / rows, "--max-fetch-failed-share", limit, _TOLD_FETCH_FAILED, again
        )
    for modality in MODALITIES:
        states = counts.states.get(modality, {})
        recovered, low = states.get("recovered", 0), states.get("low_quality", 0)
        meant = getattr(options.rows.columns, modality) is None
        told = 1.0 if few or meant else _TOLD_SHARE
        why = _listed(counts.reasons.get(modality, {}).items())
        what = _of(recovered, rows, f"have a recovered {modality}", why)
        limit = options.max_recovered_share
        yield _Finding(what, recovered / rows, "--max-recovered-share", limit, told)
        what = _of(
            low, rows, f"have {'an' if modality == 'image' else 'a'} {modality} of low quality"
        )
        limit = options.max_low_quality_share
        yield _Finding(what, low / rows, "--max-low-quality-share", limit, told)
    labels, before = sum(counts.labels.values()), sum(usual.values())
    if min(labels, before) >= _FEWEST_POSTS:
        shares = {
            name: (counts.labels.get(name, 0) / labels, usual.get(name, 0) / before)
            for name in ledger.labels
        }
        # The share of posts that would need another label for the nights to be alike.
        shift = sum(abs(now - then) for now, then in shares.values()) / 2
        moved = ", ".join(f"{n} {now:.0%}, was {then:.0%}" for n, (now, then) in shares.items())
        what = f"{shift:.1%} of the labels moved against the last nights ({moved})"
        told = _TOLD_LABEL_SHIFT + 1 / math.sqrt(min(labels, before))
        yield _Finding(what, shift, "--max-label-shift", options.max_label_shift, told)


def _of_image(counts: Counts, reason: ModalityReason) -> int:
    return counts.reasons.get("image", {}).get(reason, 0) + counts.lost_reasons.get(reason, 0)


def _listed(reasons: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(reasons))


def _of(some: int, rows: int, what: str, why: str = "") -> str:
    return f"{some:,} of {rows:,} posts {what} ({some / rows:.1%}{why and ': '}{why})"
