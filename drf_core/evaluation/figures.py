"""Every figure of every model and cell of an evaluation, with its replicates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from drf_core.evaluation.bootstrap import reflected
from drf_core.evaluation.metrics import (
    CLASSIFICATION,
    resampled_auroc,
    resampled_classification,
    resampled_rank_correlation,
    resampled_share,
    resamples_of,
)
from drf_core.evaluation.predictions import Outcome
from drf_core.runtimes.choice import available_cores
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
    diagnostics = [_diagnostics(outcome, outcomes[0], quality_threshold) for outcome in outcomes]

    def measure_cell(cell: int, weights: np.ndarray, into: np.ndarray) -> None:
        found = resampled_classification(weights, labels, outcomes[cell].probabilities)
        found |= {name: figure(weights) for name, figure in diagnostics[cell].items()}
        for name, figure in found.items():
            into[:, cell, METRICS.index(name)] = figure

    def measure(weights: np.ndarray, into: np.ndarray) -> None:
        list(pool.map(lambda cell: measure_cell(cell, weights, into), range(len(outcomes))))

    start = 0
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        tqdm(total=resamples, desc="resamples", unit="", disable=None) as progress,
    ):
        measure(np.ones((1, len(labels))), values[None])
        for weights in resamples_of(len(labels), resamples, seed):
            measure(weights, replicates[start : start + len(weights)])
            start += len(weights)
            progress.update(len(weights))
    column = METRICS.index("calibration_error")
    for cell in range(len(outcomes)):
        replicates[:, cell, column] = reflected(values[cell, column], replicates[:, cell, column])
    return Figures(values, replicates)


def _diagnostics(
    outcome: Outcome, clean: Outcome, threshold: float
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """How to compute each figure that the cell has from weights (resamples, posts)."""
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for column, m in enumerate(MODALITIES):
        there, quality = outcome.present[:, column], outcome.quality[:, column]
        if there.any():
            found[f"{m}_low_quality"] = partial(
                resampled_share, chosen=quality < threshold, among=there
            )
        higher = np.flatnonzero(clean.present[:, column])
        lower = np.flatnonzero(outcome.damaged[:, column])
        if len(higher) and len(lower):
            found[f"{m}_quality_auroc"] = partial(
                resampled_auroc,
                higher=clean.quality[higher, column],
                lower=quality[lower],
                rows=(higher, lower),
            )
        error = outcome.recovery_error[:, column]
        recovered = np.flatnonzero(~np.isnan(error))
        if len(recovered) >= _FEWEST:
            found[f"{m}_recovery_correlation"] = partial(
                resampled_rank_correlation,
                first=quality[recovered],
                second=-error[recovered],
                rows=recovered,
            )
    return found
