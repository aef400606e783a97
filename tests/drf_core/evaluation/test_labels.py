"""Labels one by one, and what confidence is worth, by hand-counted posts."""

from __future__ import annotations

import numpy as np

from drf_core.evaluation.labels import confusion, label_figures, reliability
from drf_core.evaluation.metrics import classification

LABELS = np.array([0, 0, 0, 1])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [0.62, 0.38, 0.0], [0.95, 0.05, 0.0]])


def test_rows_of_a_confusion_are_true_labels() -> None:
    assert confusion(LABELS, PROBABILITIES).tolist() == [[2, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_a_label_has_precision_recall_and_counts() -> None:
    first, second, third = label_figures(LABELS, PROBABILITIES)
    assert (first.precision, first.recall, first.posts, first.predicted) == (2 / 3, 2 / 3, 3, 3)
    assert (second.f1, second.posts, second.predicted) == (0.0, 1, 1)
    assert (third.precision, third.recall, third.posts) == (0.0, 0.0, 0)


def test_bins_of_confidence_say_what_share_is_right() -> None:
    bins = reliability(LABELS, PROBABILITIES)
    assert bins[9].tolist() == [(0.9 + 0.95) / 2, 0.5, 2]
    assert bins[6].tolist() == [0.62, 1.0, 1]
    assert np.isnan(bins[0, :2]).all() and bins[0, 2] == 0
    gaps = np.abs(bins[:, 0] - bins[:, 1]) * bins[:, 2]
    assert np.isclose(
        np.nansum(gaps) / 4, classification(LABELS, PROBABILITIES)["calibration_error"]
    )
