"""What training selects by, and what a model card shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.views import FeatureViews
from drf_core.evaluation.metrics import CLASSIFICATION
from drf_core.evaluation.predictions import under_prior
from drf_core.evaluation.quick import evaluate, mean_accuracy
from drf_core.model.modeling_drf import DRFModel
from tests.support.features import drawn_features

POSTS = 60
CELLS = [
    "clean",
    *(f"{m} {strategy}" for m in ("text", "image")
      for strategy in ("corrupt", "discard", "corrupt+discard")),
]  # fmt: skip


@pytest.fixture
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


def views_of(model: DRFModel, there: dict[str, torch.Tensor]) -> dict[str, FeatureViews]:
    """Features as they are and corrupted; there {modality: (posts, 2) bool}."""
    found = {}
    for m, present in there.items():
        whole, corrupt = (drawn_features(model, m, POSTS, 3, spread) for spread in (1.0, 4.0))
        both = torch.stack([whole, corrupt], 1) * present[..., None]
        found[m] = FeatureViews(both.half(), present, (None, "corrupt"))
    return found


@pytest.fixture
def whole() -> dict[str, torch.Tensor]:
    return {m: torch.ones(POSTS, 2, dtype=torch.bool) for m in ("text", "image")}


def test_there_are_figures_of_every_cell_and_a_quality_where_something_is_corrupted(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    labels = np.arange(POSTS) % 3
    figures = evaluate(model, views_of(model, whole), labels)
    assert list(figures) == CELLS
    for name, cell in figures.items():
        expected = {*CLASSIFICATION, "most_said"}
        if name in ("text corrupt", "image corrupt"):
            expected.add("quality_auroc")
        assert set(cell) == expected
        assert all(0 <= value <= 1 for name, value in cell.items() if name != "log_loss")


def test_a_post_without_a_label_counts_for_quality_alone(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    labels = np.arange(POSTS) % 3
    some = np.where(np.arange(POSTS) < 20, labels, -1)
    of_all, of_some = (evaluate(model, views_of(model, whole), given) for given in (labels, some))
    corrupt = [cell["text corrupt"] for cell in (of_all, of_some)]
    assert corrupt[0]["quality_auroc"] == corrupt[1]["quality_auroc"]
    assert corrupt[0]["calibration_error"] != corrupt[1]["calibration_error"]


def test_what_cannot_be_corrupted_is_not_counted_as_corrupted(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    # Corrupting these would leave nothing to predict from, so they stay as they came.
    whole["text"][:30, 1] = False
    whole["image"][:30] = False
    views = views_of(model, whole)
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


def test_another_prior_moves_the_odds_and_nothing_else() -> None:
    uniform = np.full(3, 1 / 3)
    prior = np.array([0.2, 0.2, 0.6])
    said = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    moved = under_prior(said, uniform, prior)
    assert moved.sum(1) == pytest.approx([1, 1])
    assert moved[:, 2] / moved[:, 0] == pytest.approx(3 * said[:, 2] / said[:, 0])
    assert moved[:, 1] / moved[:, 0] == pytest.approx(said[:, 1] / said[:, 0])
    assert under_prior(moved, prior, uniform) == pytest.approx(said)


def test_every_label_is_judged_at_the_operating_point_that_is_asked_for(
    model: DRFModel, whole: dict[str, torch.Tensor]
) -> None:
    labels = np.full(POSTS, 2)
    nearly_all = np.array([1e-6, 1e-6, 1.0])
    assert evaluate(model, views_of(model, whole), labels, nearly_all)["clean"]["accuracy"] == 1
    # A checkpoint with a prior of its own is judged as one without.
    asked = np.array([0.2, 0.3, 0.5])
    before = evaluate(model, views_of(model, whole), np.arange(POSTS) % 3, asked)
    model.config.prior = {"negative": 0.98, "neutral": 0.01, "positive": 0.01}
    after = evaluate(model, views_of(model, whole), np.arange(POSTS) % 3, asked)
    for name, cell in before.items():
        assert after[name] == pytest.approx(cell, abs=1e-4), name


def test_training_selects_by_clean_and_disrupted_accuracy_in_equal_parts() -> None:
    figures = {name: {"accuracy": 0.8 if name == "clean" else 0.6} for name in CELLS}
    assert mean_accuracy(figures) == pytest.approx(0.7)
