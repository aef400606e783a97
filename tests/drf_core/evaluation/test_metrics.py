"""Figures of merit on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from drf_core.evaluation.metrics import (
    accuracy,
    auroc,
    expected_calibration_error,
    f1_scores,
    rank_correlation,
)


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


def test_a_confidence_of_one_lies_in_the_last_bin() -> None:
    probabilities = np.array([[1.0, 0.0], [0.95, 0.05]])
    # Both in the bin from .9 to 1: mean confidence .975 against accuracy .5.
    assert expected_calibration_error(np.array([0, 1]), probabilities) == pytest.approx(0.475)


def test_opposite_gaps_cancel_within_a_bin_and_not_between_bins() -> None:
    within = np.array([[0.71, 0.29], [0.79, 0.21]])
    between = np.array([[0.6, 0.4], [0.9, 0.1]])
    assert expected_calibration_error(np.array([0, 1]), within) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([0, 1]), between) == pytest.approx(0.65)


def test_auroc_of_nothing_is_not_a_number() -> None:
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


def test_rank_correlation_asks_for_the_order_alone() -> None:
    values = np.array([0.1, 0.5, 0.6, 3.0])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)
    # By hand: ranks 1 2 3 4 against 2 1 4 3, 1 - 6 * 4 / (4 * 15).
    assert rank_correlation(values, np.array([2, 1, 4, 3])) == pytest.approx(0.6)
    assert np.isnan(rank_correlation(values, np.ones(4)))
