"""Intervals and corrected p-values from figures of resampled posts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval at `LEVEL`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """One model's figure less another's.

    p: two-sided, from the bootstrap; p_holm: corrected for the number of comparisons in the
    family.
    """

    p: float
    p_holm: float


def interval(value: float, replicates: np.ndarray) -> Interval:
    """Percentile interval of a figure; replicates (resamples,), nan where undefined."""
    defined = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(defined):
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def reflected(value: float, replicates: np.ndarray) -> np.ndarray:
    """Replicates mirrored at the figure, at least 0: turns percentile into basic intervals.

    For a figure that resampling inflates, as it does a calibration error: its percentile
    interval can lie wholly above the figure itself.
    """
    return np.maximum(2 * value - replicates, 0.0)


def bootstrap_p(replicates: np.ndarray) -> float:
    """Two-sided p-value that a difference is 0, from its replicates (resamples,).

    Twice the share of resamples on the other side of 0, the observed sample counted in, so
    that it is never 0: with 2,000 resamples the least is .001.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan")
    tails = ((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (1 + min(tails)) / (1 + len(defined))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values; nan is left out of the family."""
    given = np.asarray(p_values, dtype=float)
    corrected = np.full(len(given), np.nan)
    members = np.flatnonzero(~np.isnan(given))
    order = members[np.argsort(given[members], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * given[order]))
    return corrected.tolist()


def differences(
    values: np.ndarray,
    replicates: np.ndarray,
    baseline_values: np.ndarray,
    baseline_replicates: np.ndarray,
) -> list[Difference]:
    """One model's figures less the baseline's over a family of cells.

    values (cells,), replicates (resamples, cells), of the same resamples for both: the
    comparison is paired.
    """
    found = values - baseline_values
    pairs = replicates - baseline_replicates
    p = [
        float("nan") if np.isnan(found[cell]) else bootstrap_p(pairs[:, cell])
        for cell in range(len(found))
    ]
    return [
        Difference(
            **vars(interval(float(found[cell]), pairs[:, cell])), p=p[cell], p_holm=corrected
        )
        for cell, corrected in enumerate(holm(p))
    ]
