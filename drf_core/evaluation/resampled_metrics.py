"""The figures of `drf_core.evaluation.metrics` for many resamples of the posts at once.

A resample is a row of weights: how often each post was drawn. All figures here are computed
from sums and ranks under those weights, so that thousands of resamples cost a few matrix
products. In every function weights is (resamples, posts) and a result is (resamples,).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drf_core.evaluation.metrics import CALIBRATION_BINS, confidence_bins

# Numbers of weights held at once: bounds memory on large corpora.
_HELD = 4_000_000


def resamples_of(posts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap weights of posts, in blocks of resamples; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    block = max(1, _HELD // max(posts, 1))
    for start in range(0, resamples, block):
        drawn = rng.integers(0, posts, (min(block, resamples - start), posts))
        offsets = posts * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
        yield counts.reshape(drawn.shape).astype(float)


def resampled_classification(
    weights: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    posts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Accuracy, weighted and macro F1, calibration error; labels (n,), probabilities (n, classes).

    posts (n,): the post of each prediction, where a post has several of them or none; without
    it there is one of every post.
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    classes = np.arange(probabilities.shape[1])
    is_label, is_called = labels[:, None] == classes, predicted[:, None] == classes
    right = labels == predicted
    in_bin = confidence_bins(confidence)[:, None] == np.arange(CALIBRATION_BINS)
    parts = (
        np.ones((len(labels), 1)),
        right[:, None],
        is_label,
        is_called,
        is_label & is_called,
        in_bin * (right - confidence)[:, None],
    )
    counted = np.concatenate(parts, 1, dtype=float)
    if posts is not None:
        # As many rows as there are posts: the product below is what resampling costs.
        of_posts = np.zeros((weights.shape[1], counted.shape[1]))
        np.add.at(of_posts, posts, counted)
        counted = of_posts
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    total, hit, support, called, hits, gaps = np.split(weights @ counted, ends, axis=1)
    f1 = 2 * hits / np.maximum(support + called, 1e-12)
    return {
        "accuracy": (hit / total)[:, 0],
        "weighted_f1": (f1 * support).sum(1) / total[:, 0],
        "macro_f1": (f1 * (support > 0)).sum(1) / (support > 0).sum(1),
        "calibration_error": np.abs(gaps).sum(1) / total[:, 0],
    }


def resampled_auroc(
    weights: np.ndarray, higher: np.ndarray, lower: np.ndarray, rows: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Chance that a score of `higher` exceeds one of `lower`; (n,), (k,).

    rows: the post of each score of both. nan in a resample without posts of one of them.
    """
    order = np.argsort(lower)
    cumulated = _cumulated(weights[:, rows[1][order]])
    below, at_most = (np.searchsorted(lower[order], higher, side) for side in ("left", "right"))
    drawn = weights[:, rows[0]]
    wins = (drawn * (cumulated[:, below] + cumulated[:, at_most])).sum(1) / 2
    pairs = drawn.sum(1) * cumulated[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def resampled_rank_correlation(
    weights: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Spearman's rank correlation; (posts,) each. nan where all drawn posts are alike."""
    x, y = (_centred_ranks(weights, values) for values in (first, second))
    xx, yy, xy = ((weights * product).sum(1) for product in (x * x, y * y, x * y))
    scale = np.sqrt(xx * yy)
    return np.divide(xy, scale, out=np.full(len(weights), np.nan), where=scale > 1e-9)


def resampled_share(weights: np.ndarray, chosen: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share that is chosen among some of the drawn posts; (posts,) bool each."""
    total = weights @ among
    chosen_of_them = weights @ (chosen & among)
    return np.divide(chosen_of_them, total, out=np.full(len(weights), np.nan), where=total > 0)


def _centred_ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    cumulated = _cumulated(weights[:, order])
    below, at_most = (np.searchsorted(values[order], values, side) for side in ("left", "right"))
    ranks = (cumulated[:, below] + cumulated[:, at_most]) / 2
    total = np.maximum(weights.sum(1, keepdims=True), 1e-12)
    return ranks - (weights * ranks).sum(1, keepdims=True) / total


def _cumulated(weights: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((len(weights), 1)), weights.cumsum(1)], 1)
