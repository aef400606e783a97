"""What a model said of every post in every cell of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

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
    rows_of = [_posts_by_disruption(cell) for cell in cells]
    wanted: dict[Disruption, Tensor] = {}
    for of_cell in rows_of:
        for disruption, rows in of_cell.items():
            asked = wanted.setdefault(disruption, torch.zeros(posts, dtype=torch.bool))
            asked[rows] = True
    hidden = torch.empty(0)
    found: list[list[Tensor]] = []
    # The clean cell first: what is recovered is compared with what it says.
    for disruption, asked in tqdm(wanted.items(), "predictions", unit="damage", disable=None):
        rows = asked.nonzero().flatten()
        parts = []
        for index in rows.split(batch):
            *said, recovered, clean = _forward(model, views, index, disruption)
            if disruption == Disruption():
                hidden = hidden if len(hidden) else clean.new_zeros(posts, *clean.shape[1:])
                hidden[index] = clean
            distance = (recovered - hidden[index]).norm(dim=-1)
            # A design without recovery leaves zeros.
            distance[said[2] | ~had[index] | (recovered == 0).all(-1)] = torch.nan
            parts.append((*said, distance))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        place = torch.full((posts,), -1).index_put((rows,), torch.arange(len(rows)))
        found = found or [
            [column.new_empty(posts, *column.shape[1:]) for column in columns] for _ in cells
        ]
        for into, of_cell in zip(found, rows_of, strict=True):
            if disruption in of_cell:
                chosen = of_cell[disruption]
                for column, values in zip(into, columns, strict=True):
                    column[chosen] = values[place[chosen]]
    return [Outcome(*(column.numpy() for column in columns)) for columns in found]


def _posts_by_disruption(cell: Cell) -> dict[Disruption, Tensor]:
    found: dict[Disruption, list[int]] = {}
    for post, disruption in enumerate(cell.disruptions):
        found.setdefault(disruption, []).append(post)
    return {disruption: torch.tensor(rows) for disruption, rows in found.items()}


def _forward(
    model: DRFModel,
    views: dict[str, FeatureViews],
    index: Tensor,
    disruption: Disruption,
) -> tuple[Tensor, ...]:
    """Probabilities, quality, present, damaged, recovered and hidden features; see `Outcome`."""
    picked = pick_features(views, index, [disruption] * len(index))
    text, image = (
        None if raw is None else raw.to(model.device) for raw in (picked.text, picked.image)
    )
    output = model.forward_features(text, image, picked.present.to(model.device))
    assert output.logits is not None and output.quality is not None
    assert output.recovered is not None and output.hidden is not None
    probabilities, quality, recovered, hidden = (
        tensor.float().cpu()
        for tensor in (output.logits.softmax(-1), output.quality, output.recovered, output.hidden)
    )
    return probabilities, quality, picked.present, picked.damaged, recovered, hidden


def under_prior(
    probabilities: np.ndarray, assumed: Sequence[float] | np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Probabilities (n, labels) that assume one prior (labels,), as they are under another."""
    moved = probabilities * (prior / np.asarray(assumed))
    return moved / moved.sum(1, keepdims=True)
