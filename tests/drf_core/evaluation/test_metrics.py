"""Figures of merit on cases worked out by hand, and as scikit-learn has them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score, roc_auc_score

from drf_core.evaluation.metrics import (
    CLASSIFICATION,
    auroc,
    classification,
    resampled_rank_correlation,
)
from drf_core.evaluation.predictions import under_prior


def calibration_error(labels: list[int], probabilities: np.ndarray) -> float:
    return classification(np.array(labels), probabilities)["calibration_error"]


def test_every_figure_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 200, p=[0.2, 0.1, 0.7])
    # Rounded, so that scores tie.
    said = (rng.dirichlet(np.ones(3), 200) + 0.4 * np.eye(3)[labels]).round(1) + 0.01
    said /= said.sum(1, keepdims=True)
    called = said.argmax(1)
    found = classification(labels, said)
    assert tuple(found) == CLASSIFICATION
    assert found.pop("calibration_error") > 0
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(labels, called),
            "macro_recall": recall_score(labels, called, average="macro"),
            "weighted_f1": f1_score(labels, called, average="weighted"),
            "macro_f1": f1_score(labels, called, average="macro"),
            "macro_auroc": roc_auc_score(labels, said, multi_class="ovr", average="macro"),
            "log_loss": log_loss(labels, said),
        }
    )


def test_a_label_that_does_not_occur_does_not_count() -> None:
    labels, said = np.array([0, 0, 0, 1]), np.eye(3)[[0, 0, 1, 1]]
    found = classification(labels, said)
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["weighted_f1"] == pytest.approx((3 * 0.8 + 2 / 3) / 4)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1) / 2)
    # Two of the three that are 0 score 1, the third 0 as the other label does: (2 + .5) / 3.
    assert found["macro_auroc"] == pytest.approx(2.5 / 3)


def test_posts_of_one_label_have_no_auroc() -> None:
    assert np.isnan(classification(np.zeros(4, int), np.full((4, 2), 0.5))["macro_auroc"])


def test_what_was_held_to_be_impossible_costs_much_and_not_everything() -> None:
    assert 10 < classification(np.array([1]), np.array([[1.0, 0.0]]))["log_loss"] < 20


def test_another_prior_moves_probabilities_by_its_ratio_to_the_one_assumed() -> None:
    said = np.array([[0.5, 0.5], [0.2, 0.8]])
    moved = under_prior(said, (0.5, 0.5), np.array([0.8, 0.2]))
    assert moved == pytest.approx(np.array([[0.8, 0.2], [0.5, 0.5]]))
    assert under_prior(moved, (0.8, 0.2), np.array([0.5, 0.5])) == pytest.approx(said)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert calibration_error([0] * 8 + [1] * 2, probabilities) == pytest.approx(0)
    assert calibration_error([0] * 5 + [1] * 5, probabilities) == pytest.approx(0.3)


def test_a_confidence_of_one_lies_in_the_last_bin() -> None:
    probabilities = np.array([[1.0, 0.0], [0.95, 0.05]])
    # Both in the bin from .9 to 1: mean confidence .975 against accuracy .5.
    assert calibration_error([0, 1], probabilities) == pytest.approx(0.475)


def test_opposite_gaps_cancel_within_a_bin_and_not_between_bins() -> None:
    within = np.array([[0.71, 0.29], [0.79, 0.21]])
    between = np.array([[0.6, 0.4], [0.9, 0.1]])
    assert calibration_error([0, 1], within) == pytest.approx(0.25)
    assert calibration_error([0, 1], between) == pytest.approx(0.65)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0]), np.array([1.0])) == 0.0


def test_auroc_of_nothing_is_not_a_number() -> None:
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


def test_rank_correlation_asks_for_the_order_alone() -> None:
    values = np.array([0.1, 0.5, 0.6, 3.0])

    def correlation(others: np.ndarray) -> float:
        return resampled_rank_correlation(np.ones((1, 4)), values, others, np.arange(4))[0]

    assert correlation(np.exp(values)) == pytest.approx(1.0)
    assert correlation(-values) == pytest.approx(-1.0)
    # By hand: ranks 1 2 3 4 against 2 1 4 3, 1 - 6 * 4 / (4 * 15).
    assert correlation(np.array([2, 1, 4, 3])) == pytest.approx(0.6)
    assert np.isnan(correlation(np.ones(4)))
