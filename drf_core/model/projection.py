"""From raw encoder features to the shared feature space."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """h_m = GELU(LN(W_m x_m)) of standardised, dropped-out raw features; (n, size) -> (n, d)."""

    def __init__(self, size: int, projected: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(size, projected), nn.LayerNorm(projected), nn.GELU()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project standardised raw features."""
        return self.layers(features)

    def without_dropout(self, features: Tensor) -> Tensor:
        """Project as at inference, whatever the mode."""
        return self.layers[1:](features)


class Standardiser(nn.Module):
    """Zero mean and unit variance per dimension, by the undisrupted queue; buffers (size,)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, features: Tensor) -> None:
        """Fit to features (n, size)."""
        self.mean.copy_(features.mean(0))
        # A dimension that hardly varies (a dead unit) would otherwise blow up new posts.
        spread = features.std(0)
        self.scale.copy_(spread.clamp_min(0.05 * float(spread.mean()) + 1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise (n, size)."""
        return (features.float() - self.mean) / self.scale


def pool_text(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """The first token, or the mean over tokens; (n, tokens, size) -> (n, size) float32."""
    if pooling == "first":
        return hidden[:, 0].float()
    mask = attention_mask[..., None].to(hidden.dtype)
    return ((hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)).float()


def pool_image(hidden: Tensor, pooling: str) -> Tensor:
    """The first patch, or the mean over patches or places.

    (n, patches, size) or (n, size, height, width) -> (n, size) float32.
    """
    if hidden.ndim == 4:
        return hidden.float().mean((2, 3))
    return hidden[:, 0].float() if pooling == "first" else hidden.float().mean(1)
