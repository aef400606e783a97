"""What training selects by, and what a model card shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.views import FeatureViews
from drf_core.evaluation.quick import evaluate, mean_accuracy
from drf_core.model.modeling_drf import DRFModel

POSTS = 60
CELLS = [
    "clean",
    *(f"{m} {strategy}" for m in ("text", "image")
      for strategy in ("corrupt", "discard", "corrupt+discard")),
]  # fmt: skip


@pytest.fixture
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


def views_of(there: dict[str, torch.Tensor]) -> dict[str, FeatureViews]:
    """Features as they are and corrupted; there {modality: (posts, 2) bool}."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for m, present in there.items():
        features = torch.randn(POSTS, 1, 32, generator=generator)
        both = torch.cat([features, 4 * features], 1) * present[..., None]
        found[m] = FeatureViews(both.half(), present, (None, "corrupt"))
    return found


@pytest.fixture
def whole() -> dict[str, torch.Tensor]:
    return {m: torch.ones(POSTS, 2, dtype=torch.bool) for m in ("text", "image")}


def test_there_are_figures_of_every_cell_and_a_quality_where_something_is_corrupted(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    labels = np.arange(POSTS) % 3
    figures = evaluate(model, views_of(whole), labels)
    assert list(figures) == CELLS
    for name, cell in figures.items():
        expected = {"accuracy", "weighted_f1", "macro_f1", "calibration_error"}
        if name in ("text corrupt", "image corrupt"):
            expected.add("quality_auroc")
        assert set(cell) == expected
        assert all(0 <= value <= 1 for value in cell.values())


def test_a_post_without_a_label_counts_for_quality_alone(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    labels = np.arange(POSTS) % 3
    some = np.where(np.arange(POSTS) < 20, labels, -1)
    of_all, of_some = (evaluate(model, views_of(whole), given) for given in (labels, some))
    corrupt = [cell["text corrupt"] for cell in (of_all, of_some)]
    assert corrupt[0]["quality_auroc"] == corrupt[1]["quality_auroc"]
    assert corrupt[0]["calibration_error"] != corrupt[1]["calibration_error"]


def test_what_cannot_be_corrupted_is_not_counted_as_corrupted(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    # Corrupting these would leave nothing to predict from, so they stay as they came.
    whole["text"][:30, 1] = False
    whole["image"][:30] = False
    views = views_of(whole)
    figures = evaluate(model, views, np.arange(POSTS) % 3)
    alone = torch.tensor([[True, False]])
    clean, corrupted = (
        model.forward_features(texts.float(), None, alone.expand(len(texts), 2)).quality
        for texts in (views["text"].features[:, 0], views["text"].features[30:, 1])
    )
    assert clean is not None and corrupted is not None
    gaps = clean[:, None, 0] - corrupted[None, :, 0]
    chance = float(((gaps > 0).float() + 0.5 * (gaps == 0)).mean())
    assert figures["text corrupt"]["quality_auroc"] == pytest.approx(chance, abs=1e-3)


def test_training_selects_by_clean_and_disrupted_accuracy_in_equal_parts() -> None:
    figures = {name: {"accuracy": 0.8 if name == "clean" else 0.6} for name in CELLS}
    assert mean_accuracy(figures) == pytest.approx(0.7)
