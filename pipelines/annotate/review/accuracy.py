"""What answers say: accuracy weighted back to all posts, and its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.annotate.report.significance import share_interval


@dataclass(frozen=True)
class Accuracy:
    """Measured accuracy of all posts. low, high: 95 % interval. answers: that it rests on."""

    value: float
    low: float
    high: float
    answers: int


def weighted_accuracy(right: np.ndarray, weights: np.ndarray) -> Accuracy:
    """Accuracy over all posts from answers about some.

    right (answers,): whether the model's label is the one that was answered. weights
    (answers,): posts that each stands for. Hajek's estimator (weights sum to the posts), its
    variance by linearisation, and Wilson's interval for as many answers as have that variance:
    it keeps its cover where nearly all or hardly any are right.
    """
    answers = len(right)
    if not answers:
        return Accuracy(0.0, 0.0, 1.0, 0)
    right = right.astype(np.float64)
    total = weights.sum()
    value = float((weights * right).sum() / total)
    # As many answers of equal weight would say as much (Kish).
    effective = float(total**2 / np.square(weights).sum())
    if 0.0 < value < 1.0:
        residuals = weights * (right - value)
        # The part (1 - 1/w) is what drawing without replacement saves.
        variance = float((np.square(residuals) * (1 - 1 / np.maximum(weights, 1.0))).sum())
        variance /= float(total) ** 2
        if variance == 0:
            # Every post was answered.
            return Accuracy(value, value, value, answers)
        effective = value * (1 - value) / variance
    return Accuracy(value, *share_interval(value * effective, effective), answers)
