"""What holds a partition back: shares of it that say that something is wrong with the night."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.annotate.output.ledger import Counts, Ledger, sum_counts
from pipelines.annotate.plan import JobOptions
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
# Of fewer posts a share says nothing of their hosts.
_FEWEST_POSTS = 20


def why_held_back(ledger: Ledger, options: JobOptions) -> str | None:
    """Why a partition with this ledger is not published, None where it may be."""
    rows = sum(file.rows for file in ledger.files.values())
    if rows == 0:
        return None
    dead = sum(file.dead_letters for file in ledger.files.values())
    counts = sum_counts(shard.counts for file in ledger.files.values() for shard in file.shards)
    if dead > options.max_dead_letter_share * rows:
        why = _listed(counts.dead_letter_reasons.items())
        what = f"are dead letters ({dead / rows:.1%}: {why})"
        return _told(dead, rows, what, "--max-dead-letter-share", options.max_dead_letter_share)
    failed = sum(_of_image(counts, reason) for reason in _OF_HOSTS)
    if rows >= _FEWEST_POSTS and failed > options.max_fetch_failed_share * rows:
        why = _listed((str(r), n) for r in _OF_HOSTS if (n := _of_image(counts, r)))
        what = f"have no image because of its host ({failed / rows:.1%}: {why})"
        told = _told(failed, rows, what, "--max-fetch-failed-share", options.max_fetch_failed_share)
        return f"{told}; when the host is back: --retry fetch_failed"
    for modality in MODALITIES:
        recovered = counts.states.get(modality, {}).get("recovered", 0)
        if recovered > options.max_recovered_share * rows:
            why = _listed(counts.reasons.get(modality, {}).items())
            what = f"have a recovered {modality} ({recovered / rows:.1%}: {why})"
            return _told(
                recovered, rows, what, "--max-recovered-share", options.max_recovered_share
            )
    return None


def _of_image(counts: Counts, reason: ModalityReason) -> int:
    return counts.reasons.get("image", {}).get(reason, 0) + counts.lost_reasons.get(reason, 0)


def _listed(reasons: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(reasons))


def _told(some: int, rows: int, what: str, option: str, most: float) -> str:
    return (
        f"held back: {some:,} of {rows:,} posts {what}, more than {option} {most:g}; look at the "
        "input, or run again with a higher share (within 7 days nothing is annotated twice)"
    )
