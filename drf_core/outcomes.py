"""What a model said of every post in every cell of an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drf_core.configuration_drf import MODALITIES
from drf_core.disruption import Disruption
from drf_core.feature_views import FeatureViews, pick_features
from drf_core.modeling_drf import DRFModel
from drf_core.processing_drf import DRFProcessor
from drf_core.protocol import Cell

# Settings that say where a part came from, not what it does.
_PROVENANCE = {
    "_name_or_path", "architectures", "dtype", "processor_class", "transformers_version",
}  # fmt: skip


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
    rows = torch.arange(posts).split(batch)
    hidden = torch.cat([_forward(model, views, index, cells[0].disruptions)[3] for index in rows])
    found = []
    for cell in cells:
        parts = [_forward(model, views, index, cell.disruptions) for index in rows]
        probabilities, quality, recovered, _, present, damaged = (
            torch.cat([part[k] for part in parts]) for k in range(6)
        )
        distance = (recovered - hidden).norm(dim=-1)
        had = torch.cat([_had(views, index) for index in rows])
        # A design without recovery leaves zeros.
        distance[present | ~had | (recovered == 0).all(-1)] = torch.nan
        found.append(
            Outcome(*(x.numpy() for x in (probabilities, quality, present, damaged, distance)))
        )
    return found


def _had(views: dict[str, FeatureViews], index: Tensor) -> Tensor:
    return torch.stack([views[m].present[index, 0] for m in MODALITIES], 1)


def _forward(
    model: DRFModel,
    views: dict[str, FeatureViews],
    index: Tensor,
    disruptions: Sequence[Disruption],
) -> tuple[Tensor, ...]:
    picked = pick_features(views, index, [disruptions[post] for post in index.tolist()])
    text, image = (
        None if raw is None else raw.to(model.device) for raw in (picked.text, picked.image)
    )
    output = model.forward_features(text, image, picked.present.to(model.device))
    assert output.logits is not None and output.quality is not None
    assert output.recovered is not None and output.hidden is not None
    said = (output.logits.softmax(-1), output.quality, output.recovered, output.hidden)
    return (*(tensor.float().cpu() for tensor in said), picked.present, picked.damaged)


def encoder_hash(model: DRFModel, processor: DRFProcessor, modality: str) -> str:
    """What the raw features of one modality depend on; equal hashes share their views.

    Weights and configuration of the encoder, pooling, and the processor's settings.
    """
    config, digest = model.config, hashlib.sha256()
    if modality == "text":
        encoder = model.text_encoder
        settings: tuple[Any, ...] = (
            _without_provenance(config.text_config.to_dict()),
            config.text_pooling,
            config.max_text_tokens,
            processor.mask_token,
            processor.tokenizer.backend_tokenizer.to_str(),
        )
    else:
        encoder = model.image_encoder
        settings = (
            _without_provenance(config.vision_config.to_dict()),
            config.image_pooling,
            _without_provenance(processor.image_processor.to_dict()),
        )
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weights in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _without_provenance(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _PROVENANCE}
