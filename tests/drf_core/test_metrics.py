"""Figures of merit on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from drf_core.metrics import accuracy, auroc, expected_calibration_error, f1_scores


def test_accuracy_and_f1() -> None:
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert accuracy(labels, predicted) == 0.75
    weighted, macro = f1_scores(labels, predicted, 3)
    assert macro == pytest.approx((0.8 + 2 / 3) / 2)
    assert weighted == pytest.approx((3 * 0.8 + 2 / 3) / 4)


def test_calling_everything_the_majority_costs_macro_f1() -> None:
    labels = np.array([0] * 9 + [1])
    weighted, macro = f1_scores(labels, np.zeros(10, int), 2)
    assert weighted > 0.8 and macro < 0.5


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert expected_calibration_error(np.array([0] * 8 + [1] * 2), probabilities) == pytest.approx(
        0
    )
    assert expected_calibration_error(np.array([0] * 5 + [1] * 5), probabilities) == pytest.approx(
        0.3
    )


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0]), np.array([1.0])) == 0.0
