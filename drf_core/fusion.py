"""Fusion of both modalities by weights that follow their qualities."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QualityFusion(nn.Module):
    """Weigh, concatenate, classify.

    A modality of low quality weighs less (paper). What it loses, its recovered features
    take over, by the same trust (our own reading). `prior` is learned: how much a modality
    is worth as it came (row 0) and recovered (row 1), columns text and image.
    """

    def __init__(self, size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(2, 2))
        self.head = nn.Sequential(
            nn.Linear(2 * size, size), nn.GELU(), nn.Dropout(dropout), nn.Linear(size, labels)
        )

    def weights(self, trust: Tensor, present: Tensor) -> Tensor:
        """Share of each modality; trust (batch, 2), present (batch, 2) bool -> (batch, 2)."""
        prior = torch.where(present, self.prior[0], self.prior[1])
        worth = trust * prior.exp()
        return worth / worth.sum(-1, keepdim=True)

    def forward(
        self, features: Tensor, recovered: Tensor, trust: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuse a batch with any mixture of present, low-quality and recovered modalities.

        features, recovered: (batch, 2, d), text first; features are zero where absent.
        trust (batch, 2); present (batch, 2) bool. Returns logits (batch, labels) and
        weights (batch, 2).
        """
        kept = torch.where(present, trust, torch.zeros_like(trust))[..., None]
        blended = kept * features + (1 - kept) * recovered
        weights = self.weights(trust, present)
        # Twice the weight: equal weights then leave a plain concatenation as it is.
        return self.head((2 * weights[..., None] * blended).flatten(1)), weights
