"""Predictions of a model over a corpus, undisrupted and under the paper's disruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drf_core.configuration_drf import MODALITIES
from drf_core.disruption import STRATEGIES, Disruption, modality_fixed
from drf_core.feature_views import FeatureViews, pick_features
from drf_core.metrics import accuracy, auroc, expected_calibration_error, f1_scores
from drf_core.modeling_drf import DRFModel

CLEAN = "clean"


def cells(count: int) -> dict[str, list[Disruption]]:
    """Disruptions of count posts for each cell of the paper's modality-fixed setting."""
    disrupted = {
        f"{modality} {strategy}": modality_fixed(count, modality, strategy)
        for modality in MODALITIES
        for strategy in STRATEGIES
    }
    return {CLEAN: [Disruption()] * count, **disrupted}


@dataclass(frozen=True)
class CellPredictions:
    """What a model said of one cell: probabilities (posts, labels), quality (posts, 2)."""

    probabilities: np.ndarray
    quality: np.ndarray
    present: np.ndarray


@torch.no_grad()
def predict(
    model: DRFModel,
    views: dict[str, FeatureViews],
    disruptions: Sequence[Disruption],
    batch: int = 256,
) -> CellPredictions:
    """Predict every post, each under its own disruption; views as `encode_views` made them."""
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in torch.arange(len(disruptions)).split(batch):
        picked = pick_features(views, index, [disruptions[i] for i in index.tolist()])
        text, image, present = (
            None if x is None else x.to(model.device)
            for x in (picked.text, picked.image, picked.present)
        )
        assert present is not None
        output = model.forward_features(text, image, present)
        assert output.logits is not None and output.quality is not None
        parts.append((output.logits.softmax(-1), output.quality, present))
    probabilities, quality, present = (
        torch.cat([part[k] for part in parts]).cpu().numpy() for k in range(3)
    )
    return CellPredictions(probabilities, quality, present)


def evaluate(
    model: DRFModel, views: dict[str, FeatureViews], labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """Figures per cell over the labelled posts; views with the kind "corrupt", labels (posts,).

    Returns {cell: {accuracy, weighted_f1, macro_f1, calibration_error, and for a corrupted
    modality quality_auroc, its quality clean against corrupted}}.
    """
    known = labels >= 0
    classes = len(model.config.labels)
    predicted_cells = {
        name: predict(model, views, disruptions) for name, disruptions in cells(len(labels)).items()
    }
    figures = {}
    for name, cell in predicted_cells.items():
        probabilities = cell.probabilities[known]
        predicted = probabilities.argmax(1)
        weighted, macro = f1_scores(labels[known], predicted, classes)
        figures[name] = {
            "accuracy": accuracy(labels[known], predicted),
            "weighted_f1": weighted,
            "macro_f1": macro,
            "calibration_error": expected_calibration_error(labels[known], probabilities),
        }
        modality, _, strategy = name.partition(" ")
        if strategy == "corrupt":
            column = MODALITIES.index(modality)
            before, after = predicted_cells[CLEAN], cell
            figures[name]["quality_auroc"] = auroc(
                before.quality[before.present[:, column], column],
                after.quality[after.present[:, column], column],
            )
    return figures


def mean_accuracy(figures: dict[str, dict[str, float]]) -> float:
    """Half the clean accuracy, half the mean over the disrupted cells: what training selects by."""
    disrupted = [cell["accuracy"] for name, cell in figures.items() if name != CLEAN]
    return 0.5 * figures[CLEAN]["accuracy"] + 0.5 * float(np.mean(disrupted))
