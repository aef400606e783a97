"""A model's figures without resamples: what training selects by, and what a card shows."""

from __future__ import annotations

import numpy as np

from drf_core.corpus.views import FeatureViews
from drf_core.evaluation.metrics import auroc, classification
from drf_core.evaluation.predictions import outcomes, under_prior
from drf_core.evaluation.protocol import CLEAN, modality_fixed_cells
from drf_core.model.modeling_drf import DRFModel
from schemas.annotations import MODALITIES


def evaluate(
    model: DRFModel,
    views: dict[str, FeatureViews],
    labels: np.ndarray,
    prior: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Figures of the clean and the modality-fixed cells.

    views with the kind "corrupt", labels (posts,), -1 for a post that counts for quality alone.
    prior (labels,): the operating point, shares of the labels to assume instead of the model's.

    Returns {cell: {the figures that `metrics.CLASSIFICATION` names, most_said, the share of the
    label that was said most often, and for a corrupted modality quality_auroc, its quality clean
    against corrupted}}.
    """
    known = labels >= 0
    asked = modality_fixed_cells(len(labels))
    said = outcomes(model, views, asked)
    figures = {}
    for cell, outcome in zip(asked, said, strict=True):
        probabilities = outcome.probabilities[known]
        if prior is not None:
            probabilities = under_prior(probabilities, model.config.label_prior, prior)
        figures[cell.name] = classification(labels[known], probabilities)
        most = np.bincount(probabilities.argmax(1)).max()
        figures[cell.name]["most_said"] = float(most) / len(probabilities)
        if cell.strategy == "corrupt":
            assert cell.modality is not None
            column = MODALITIES.index(cell.modality)
            figures[cell.name]["quality_auroc"] = auroc(
                said[0].quality[said[0].present[:, column], column],
                outcome.quality[outcome.damaged[:, column], column],
            )
    return figures


def mean_accuracy(figures: dict[str, dict[str, float]]) -> float:
    """Half the clean accuracy, half the mean over the disrupted cells: what training selects by."""
    disrupted = [cell["accuracy"] for name, cell in figures.items() if name != CLEAN]
    return 0.5 * figures[CLEAN]["accuracy"] + 0.5 * float(np.mean(disrupted))


def suspicions(figures: dict[str, dict[str, float]]) -> list[str]:
    """What looks like a model that learned nothing, in words: sentences to warn with."""
    clean = figures[CLEAN]
    found = ["one label is said of every undisrupted post"] if clean["most_said"] == 1 else []
    if all(cell["log_loss"] == clean["log_loss"] for cell in figures.values()):
        found.append("the same is said in all cells, whatever is disrupted")
    return found
