"""Figures of merit for predictions and for quality estimates, of posts or of many resamples.

A resample is a row of weights: how often each post was drawn. All figures are computed from sums
and ranks under those weights, so that thousands of resamples cost a few matrix products; a plain
figure is that under weights of 1. In every `resampled_` function weights is (resamples, posts) and
a result is (resamples,).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CALIBRATION_BINS = 10
# macro_…: the mean over the labels that occur. macro_auroc: of each label against the rest.
CLASSIFICATION = (
    "accuracy",
    "macro_recall",
    "weighted_f1",
    "macro_f1",
    "macro_auroc",
    "log_loss",
    "calibration_error",
)
LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})
# Numbers of weights held at once: bounds memory on large corpora.
_HELD = 4_000_000
# Of a label that a model holds to be impossible; the loss would be infinite.
_LEAST_PROBABILITY = 1e-7


def resamples_of(posts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap weights of posts, in blocks of resamples; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    block = max(1, _HELD // max(posts, 1))
    for start in range(0, resamples, block):
        drawn = rng.integers(0, posts, (min(block, resamples - start), posts))
        offsets = posts * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
        yield counts.reshape(drawn.shape).astype(float)


def classification(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The figures that `CLASSIFICATION` names; labels (n,) ints, probabilities (n, classes)."""
    found = resampled_classification(np.ones((1, len(labels))), labels, probabilities)
    return {name: float(values[0]) for name, values in found.items()}


def resampled_classification(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, np.ndarray]:
    """The figures that `CLASSIFICATION` names; labels (posts,), probabilities (posts, classes).

    AUROC follows the weights linearly, through each post's placement among the posts that it is
    compared with (DeLong et al., 1988).
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    classes = np.arange(probabilities.shape[1])
    is_label, is_called = labels[:, None] == classes, predicted[:, None] == classes
    right = labels == predicted
    in_bin = confidence_bins(confidence)[:, None] == np.arange(CALIBRATION_BINS)
    of_label = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(of_label, _LEAST_PROBABILITY))
    placed = _placements(is_label, probabilities)
    parts = (
        np.ones((len(labels), 1)),
        right[:, None],
        loss[:, None],
        is_label,
        is_called,
        is_label & is_called,
        is_label * placed,
        ~is_label * placed,
        in_bin * (right - confidence)[:, None],
    )
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    sums = np.split(weights @ np.concatenate(parts, 1, dtype=float), ends, axis=1)
    total, hit, lost, support, called, hits, above, below, gaps = sums
    f1 = 2 * hits / np.maximum(support + called, 1e-12)
    others = total - support
    observed = (is_label * placed).sum(0) / np.maximum(is_label.sum(0), 1)
    auroc = above / np.maximum(support, 1e-12) + below / np.maximum(others, 1e-12) - observed
    found = {
        "accuracy": hit[:, 0] / total[:, 0],
        "macro_recall": _mean(hits / np.maximum(support, 1e-12), support > 0),
        "weighted_f1": (f1 * support).sum(1) / total[:, 0],
        "macro_f1": _mean(f1, support > 0),
        "macro_auroc": _mean(auroc, (support > 0) & (others > 0)),
        "log_loss": lost[:, 0] / total[:, 0],
        "calibration_error": np.abs(gaps).sum(1) / total[:, 0],
    }
    return {name: found[name] for name in CLASSIFICATION}


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean of each row's values (rows, n) that count; nan where none does."""
    number = counted.sum(1)
    total = np.where(counted, values, 0.0).sum(1)
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


def confidence_bins(confidence: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Which of the equally wide bins each confidence in [0, 1] lies in; (n,) ints."""
    return np.minimum((confidence * bins).astype(int), bins - 1)


def _placements(is_label: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each post and class the share of the posts on the other side that it is rightly ranked
    against, ties counting half; (posts, classes) each.

    A post of the class should score higher than those that are not of it, and the reverse.
    """
    placed = np.zeros(scores.shape)
    for column in range(scores.shape[1]):
        own, score = is_label[:, column], scores[:, column]
        for side, sign in ((own, 1), (~own, -1)):
            others = np.sort(sign * score[~side])
            ranks = [np.searchsorted(others, sign * score[side], way) for way in ("left", "right")]
            placed[side, column] = np.mean(ranks, 0) / max(len(others), 1)
    return placed


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Chance that a score of `higher` exceeds one of `lower`, ties counting half; (n,), (k,).

    nan where one of them is empty.
    """
    rows = np.split(np.arange(len(higher) + len(lower)), [len(higher)])
    weights = np.ones((1, len(higher) + len(lower)))
    return float(resampled_auroc(weights, higher, lower, (rows[0], rows[1]))[0])


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
    weights: np.ndarray, first: np.ndarray, second: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Spearman's rank correlation; (n,) each. nan where all drawn posts are alike.

    rows (n,): the post of each value.
    """
    weights = weights[:, rows]
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
