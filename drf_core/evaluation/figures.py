"""Every figure of every model and cell of an evaluation, with its replicates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from drf_core.evaluation.bootstrap import reflected
from drf_core.evaluation.metrics import CLASSIFICATION, auroc, classification, rank_correlation
from drf_core.evaluation.predictions import Outcome
from drf_core.evaluation.resampled_metrics import (
    resampled_auroc,
    resampled_classification,
    resampled_rank_correlation,
    resampled_share,
    resamples_of,
)
from schemas.annotations import MODALITIES

# quality_auroc: chance that the quality of an undisrupted post exceeds that of a damaged one.
# low_quality: share of what is present whose quality is below the threshold.
# recovery_correlation: Spearman, quality of recovered features against *closeness* to the
# true ones (negative error), so that higher is better.
DIAGNOSTICS = ("quality_auroc", "low_quality", "recovery_correlation")
METRICS = (*CLASSIFICATION, *(f"{m}_{name}" for name in DIAGNOSTICS for m in MODALITIES))
_FEWEST = 10


@dataclass(frozen=True)
class Figures:
    """Figures of one model: values (cells, metrics), replicates (resamples, cells, metrics).

    Metrics in the order of `METRICS` (or the first of them), nan where a cell has no such figure.
    """

    values: np.ndarray
    replicates: np.ndarray

    def means_over(self, groups: Iterable[Sequence[int]]) -> Figures:
        """The mean over the cells of each group that have the figure; a group is then a cell."""
        with warnings.catch_warnings():
            # The mean of a figure that no cell has is nan, as it should be.
            warnings.simplefilter("ignore", RuntimeWarning)
            means = [
                (np.nanmean(self.values[cells], 0), np.nanmean(self.replicates[:, cells], 1))
                for cells in groups
            ]
        values, replicates = zip(*means, strict=True)
        return Figures(np.stack(values), np.stack(replicates, 1))


@dataclass(frozen=True)
class _Scored:
    """One figure: its value, and how to compute it for a block of resamples."""

    value: float
    resample: Callable[[np.ndarray], np.ndarray]


def figures(
    outcomes: Sequence[Outcome],
    labels: np.ndarray,
    quality_threshold: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Figures:
    """Figures of one model over all cells, outcomes[0] the clean one; labels (posts,).

    The same seed draws the same posts for every model.
    """
    values = np.full((len(outcomes), len(METRICS)), np.nan)
    replicates = np.full((resamples, *values.shape), np.nan, dtype=np.float32)
    scored = [_diagnostics(outcome, outcomes[0], quality_threshold) for outcome in outcomes]
    for cell, outcome in enumerate(outcomes):
        values[cell, : len(CLASSIFICATION)] = classification(labels, outcome.probabilities)
        for name, score in scored[cell].items():
            values[cell, METRICS.index(name)] = score.value
    start = 0
    for weights in resamples_of(len(labels), resamples, seed):
        rows = slice(start, start + len(weights))
        start += len(weights)
        for cell, outcome in enumerate(outcomes):
            drawn = resampled_classification(weights, labels, outcome.probabilities)
            drawn |= {name: score.resample(weights) for name, score in scored[cell].items()}
            for name, figure in drawn.items():
                replicates[rows, cell, METRICS.index(name)] = figure
    column = METRICS.index("calibration_error")
    for cell in range(len(outcomes)):
        replicates[:, cell, column] = reflected(values[cell, column], replicates[:, cell, column])
    return Figures(values, replicates)


def _diagnostics(outcome: Outcome, clean: Outcome, threshold: float) -> dict[str, _Scored]:
    found = {}
    for column, m in enumerate(MODALITIES):
        there = outcome.present[:, column]
        if there.any():
            low = outcome.quality[:, column] < threshold
            found[f"{m}_low_quality"] = _share(low, there)
        higher = np.flatnonzero(clean.present[:, column])
        lower = np.flatnonzero(outcome.damaged[:, column])
        if len(higher) and len(lower):
            found[f"{m}_quality_auroc"] = _auroc(
                clean.quality[higher, column], outcome.quality[lower, column], (higher, lower)
            )
        recovered = np.flatnonzero(~np.isnan(outcome.recovery_error[:, column]))
        if len(recovered) >= _FEWEST:
            found[f"{m}_recovery_correlation"] = _correlation(
                outcome.quality[recovered, column],
                -outcome.recovery_error[recovered, column],
                recovered,
            )
    return found


def _share(chosen: np.ndarray, among: np.ndarray) -> _Scored:
    return _Scored(
        float(chosen[among].mean()), lambda weights: resampled_share(weights, chosen, among)
    )


def _auroc(higher: np.ndarray, lower: np.ndarray, rows: tuple[np.ndarray, np.ndarray]) -> _Scored:
    return _Scored(
        auroc(higher, lower), lambda weights: resampled_auroc(weights, higher, lower, rows)
    )


def _correlation(first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> _Scored:
    return _Scored(
        rank_correlation(first, second),
        lambda weights: resampled_rank_correlation(weights[:, rows], first, second),
    )
