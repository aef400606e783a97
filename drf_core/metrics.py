"""Figures of merit for predictions and for quality estimates."""

from __future__ import annotations

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of posts whose predicted label is right; (n,) ints each."""
    return float((labels == predicted).mean())


def f1_scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """(weighted F1, macro F1) over the given number of classes; (n,) ints each.

    Macro averages over the classes that occur in labels.
    """
    scores, support = np.zeros(classes), np.bincount(labels, minlength=classes)
    for label in range(classes):
        hits = float(((predicted == label) & (labels == label)).sum())
        called = float((predicted == label).sum()) + float(support[label])
        scores[label] = 2 * hits / called if called else 0.0
    return float((scores * support).sum() / support.sum()), float(scores[support > 0].mean())


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 10
) -> float:
    """Gap between confidence and accuracy, over equally wide bins of confidence.

    labels (n,) ints, probabilities (n, classes).
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (index == b).mean() * abs(right[index == b].mean() - confidence[index == b].mean())
        for b in range(bins)
        if (index == b).any()
    ]
    return float(np.sum(gaps))


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Chance that a score of `higher` exceeds one of `lower`, ties counting half; (n,), (k,)."""
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, side="left")
    at_most = np.searchsorted(ordered, higher, side="right")
    return float((below + at_most).sum() / 2 / (len(higher) * len(lower)))
