"""Raw features without an encoder: as many posts as a test wants, in a millisecond."""

from __future__ import annotations

import torch

from drf_core.model.modeling_drf import DRFModel


def drawn_features(
    model: DRFModel, modality: str, posts: int, seed: int = 0, spread: float = 1.0
) -> torch.Tensor:
    """Raw features (posts, raw size), around those that the model was fitted to.

    Texts are as long as most: of noise alone, no length has anything to do with the other features.
    """
    standard = model.standardise[modality]
    generator = torch.Generator().manual_seed(seed + 1000 * (modality == "image"))
    noise = torch.randn(posts, len(standard.mean), generator=generator)
    if modality == "text":
        noise[:, -1] = 0
    return standard.mean + spread * standard.scale * noise
