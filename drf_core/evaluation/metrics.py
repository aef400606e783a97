"""Figures of merit for predictions and for quality estimates."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

CALIBRATION_BINS = 10
CLASSIFICATION = ("accuracy", "weighted_f1", "macro_f1", "calibration_error")


def classification(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, ...]:
    """The figures that `CLASSIFICATION` names; labels (n,) ints, probabilities (n, classes)."""
    predicted = probabilities.argmax(1)
    return (
        accuracy(labels, predicted),
        *f1_scores(labels, predicted, probabilities.shape[1]),
        expected_calibration_error(labels, probabilities),
    )


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of posts whose predicted label is right; (n,) ints each."""
    return float(accuracy_score(labels, predicted))


def f1_scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """(weighted F1, macro F1) over the given number of classes; (n,) ints each.

    Macro averages over the classes that occur in labels.
    """
    support = np.bincount(labels, minlength=classes)
    occurring = np.flatnonzero(support)
    scores = f1_score(labels, predicted, labels=occurring, average=None, zero_division=0.0)
    return float(np.average(scores, weights=support[occurring])), float(np.mean(scores))


def confidence_bins(confidence: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Which of the equally wide bins each confidence in [0, 1] lies in; (n,) ints."""
    return np.minimum((confidence * bins).astype(int), bins - 1)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
    """Gap between confidence and accuracy, over equally wide bins of confidence.

    labels (n,) ints, probabilities (n, classes).
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    gaps = np.bincount(confidence_bins(confidence, bins), right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Chance that a score of `higher` exceeds one of `lower`, ties counting half; (n,), (k,).

    nan where one of them is empty.
    """
    if not len(higher) or not len(lower):
        return float("nan")
    belongs = np.repeat([1, 0], [len(higher), len(lower)])
    return float(roc_auc_score(belongs, np.concatenate([higher, lower])))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; (n,) each. nan for fewer than 3 or where one is constant."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)
