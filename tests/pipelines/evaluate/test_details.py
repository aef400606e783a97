"""A model that learned nothing is told."""

from __future__ import annotations

import numpy as np

from drf_core.evaluation.predictions import Outcome
from drf_core.evaluation.protocol import modality_fixed_cells
from pipelines.evaluate.details import look_into, suspicions

LABELS = ("bad", "good")
TRUTH = np.array([0, 1, 1])


def said(clean: list[float], disrupted: list[float]) -> list[str]:
    """Suspicions of a model that says these probabilities of "good" in the cells."""
    cells = modality_fixed_cells(len(TRUTH))
    nothing = np.zeros((len(TRUTH), 2))
    outcomes = []
    for number in range(len(cells)):
        good = np.array(disrupted if number else clean)
        outcomes.append(Outcome(np.stack([1 - good, good], 1), *[nothing] * 4))
    return suspicions(LABELS, look_into(TRUTH, cells, outcomes))


def test_a_model_that_learned_nothing_is_told() -> None:
    assert said([0.2, 0.7, 0.6], [0.2, 0.7, 0.4]) == []
    assert said([0.7, 0.7, 0.6], [0.2, 0.7, 0.6]) == ["calls every undisrupted post good"]
    assert said([0.2, 0.7, 0.6], [0.1, 0.9, 0.6]) == [
        "says the same in all cells, whatever is disrupted"
    ]
