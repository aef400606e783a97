"""Predictions of a model over a corpus, undisrupted and under the paper's disruptions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drf_core.annotator import available_cores
from drf_core.configuration_drf import MODALITIES
from drf_core.disruption import STRATEGIES, Disruption, modality_fixed
from drf_core.metrics import accuracy, auroc, expected_calibration_error, f1_scores
from drf_core.modeling_drf import DRFModel
from drf_core.training_corpus import FeatureBatch, TrainingCorpus, encode_batch

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
def predict_cell(
    model: DRFModel,
    corpus: TrainingCorpus,
    disruptions: Sequence[Disruption],
    seed: int = 0,
    batch: int = 128,
) -> CellPredictions:
    """Predict every post, each under its own disruption.

    The same seed damages texts alike for every model; cached images were damaged when they
    were encoded, alike for the same seed.
    """
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for index in torch.arange(len(corpus)).split(batch):
            rng = np.random.default_rng((seed, int(index[0])))
            encoded = encode_batch(
                model, corpus, index, [disruptions[i] for i in index.tolist()], rng, pool
            )
            output = model.forward_features(encoded.text, encoded.image, encoded.present)
            assert output.logits is not None and output.quality is not None
            parts.append((output.logits.softmax(-1), output.quality, encoded.present))
    probabilities, quality, present = (
        torch.cat([part[k] for part in parts]).cpu().numpy() for k in range(3)
    )
    return CellPredictions(probabilities, quality, present)


def evaluate(model: DRFModel, corpus: TrainingCorpus, seed: int = 0) -> dict[str, dict[str, float]]:
    """Figures per cell over the labelled posts.

    Returns {cell: {accuracy, weighted_f1, macro_f1, calibration_error, and for a corrupted
    modality quality_auroc, its quality clean against corrupted}}.
    """
    labels = corpus.labels.numpy()
    known = labels >= 0
    classes = len(model.config.labels)
    predicted_cells = {
        name: predict_cell(model, corpus, disruptions, seed)
        for name, disruptions in cells(len(corpus)).items()
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


@torch.no_grad()
def encode_undisrupted(
    model: DRFModel, corpus: TrainingCorpus, index: Tensor, batch: int = 128
) -> FeatureBatch:
    """Raw features of the posts at index (n,), undisrupted; leaves the model in eval mode."""
    model.eval()
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = [
            encode_batch(model, corpus, rows, [Disruption()] * len(rows), rng, pool)
            for rows in index.split(batch)
        ]
    texts = [part.text for part in parts if part.text is not None]
    images = [part.image for part in parts if part.image is not None]
    return FeatureBatch(
        torch.cat(texts) if texts else None,
        torch.cat(images) if images else None,
        torch.cat([part.present for part in parts]),
        torch.cat([part.text_damaged for part in parts]),
        torch.cat([part.image_damaged for part in parts]),
    )
