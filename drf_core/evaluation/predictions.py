"""What a model said of every post in every cell of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drf_core.corpus.disruption import Disruption
from drf_core.corpus.views import FeatureViews, pick_features
from drf_core.evaluation.protocol import Cell
from drf_core.model.modeling_drf import DRFModel
from schemas.annotations import MODALITIES


@dataclass(frozen=True)
class Outcome:
    """What a model said of one cell; pairs of columns are text, image.

    probabilities (posts, labels). quality (posts, 2), in (0, 1]. present, damaged (posts, 2)
    bool: there at all; there, but damaged by the cell. recovery_error (posts, 2): distance
    between recovered features and the true ones, where the cell took away a modality that
    the post has; else nan.
    """

    probabilities: np.ndarray
    quality: np.ndarray
    present: np.ndarray
    damaged: np.ndarray
    recovery_error: np.ndarray


@torch.no_grad()
def outcomes(
    model: DRFModel, views: dict[str, FeatureViews], cells: Sequence[Cell], batch: int = 512
) -> list[Outcome]:
    """Predict every post in every cell, from encoded views of the posts; cells[0] is clean."""
    model.eval()
    posts = len(cells[0].disruptions)
    had = torch.stack([views[m].present[:, 0] for m in MODALITIES], 1)
    # Many cells do the same to a post: half of the cells are mixtures of the others.
    wanted: dict[Disruption, set[int]] = {}
    for cell in cells:
        for disruption, chosen in _posts_by_disruption(cell).items():
            wanted.setdefault(disruption, set()).update(chosen)
    said: dict[Disruption, tuple[Tensor, ...]] = {}
    place: dict[Disruption, Tensor] = {}
    for disruption, asked in wanted.items():
        rows = torch.tensor(sorted(asked))
        parts = [_forward(model, views, index, disruption) for index in rows.split(batch)]
        said[disruption] = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        place[disruption] = torch.full((posts,), -1).index_put((rows,), torch.arange(len(rows)))
    clean = said[Disruption()]
    hidden = clean[3]
    found = []
    for cell in cells:
        columns = [torch.empty_like(column) for column in clean]
        for disruption, chosen in _posts_by_disruption(cell).items():
            rows = torch.tensor(chosen)
            for column, values in zip(columns, said[disruption], strict=True):
                column[rows] = values[place[disruption][rows]]
        probabilities, quality, recovered, _, present, damaged = columns
        distance = (recovered - hidden).norm(dim=-1)
        # A design without recovery leaves zeros.
        distance[present | ~had | (recovered == 0).all(-1)] = torch.nan
        found.append(
            Outcome(*(x.numpy() for x in (probabilities, quality, present, damaged, distance)))
        )
    return found


def _posts_by_disruption(cell: Cell) -> dict[Disruption, list[int]]:
    found: dict[Disruption, list[int]] = {}
    for post, disruption in enumerate(cell.disruptions):
        found.setdefault(disruption, []).append(post)
    return found


def _forward(
    model: DRFModel,
    views: dict[str, FeatureViews],
    index: Tensor,
    disruption: Disruption,
) -> tuple[Tensor, ...]:
    picked = pick_features(views, index, [disruption] * len(index))
    text, image = (
        None if raw is None else raw.to(model.device) for raw in (picked.text, picked.image)
    )
    output = model.forward_features(text, image, picked.present.to(model.device))
    assert output.logits is not None and output.quality is not None
    assert output.recovered is not None and output.hidden is not None
    said = (output.logits.softmax(-1), output.quality, output.recovered, output.hidden)
    return (*(tensor.float().cpu() for tensor in said), picked.present, picked.damaged)


def under_prior(
    probabilities: np.ndarray, assumed: Sequence[float] | np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Probabilities (n, labels) that assume one prior (labels,), as they are under another."""
    moved = probabilities * (prior / np.asarray(assumed))
    return moved / moved.sum(1, keepdims=True)
