"""What a model does label by label: which are taken for which, and what its confidence is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from drf_core.evaluation.metrics import CALIBRATION_BINS, confidence_bins


@dataclass(frozen=True)
class LabelFigures:
    """Of one label: precision, recall and f1; posts that have it, and that were given it."""

    precision: float
    recall: float
    f1: float
    posts: int
    predicted: int


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (classes, classes) of true (rows) by predicted labels; labels (n,) ints."""
    classes = range(probabilities.shape[1])
    return confusion_matrix(labels, probabilities.argmax(1), labels=classes)


def label_figures(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelFigures]:
    """Figures of each label, 0 where nothing was given it; labels (n,) ints."""
    predicted = probabilities.argmax(1)
    classes = probabilities.shape[1]
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0.0
    )
    counts = np.bincount(predicted, minlength=classes)
    return [
        LabelFigures(float(p), float(r), float(f), int(n), int(given))
        for p, r, f, n, given in zip(*columns, counts, strict=True)
    ]


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> np.ndarray:
    """(bins, 3): mean confidence, accuracy and posts of each bin of confidence; nan where none."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    at = confidence_bins(confidence, bins)
    posts = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(at, values, minlength=bins) / posts for values in (confidence, right)]
    return np.stack([*means, posts], 1)
