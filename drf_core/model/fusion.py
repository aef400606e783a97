"""Fusion of both modalities: weights that follow their qualities, and the rivals of that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schemas.annotations import MODALITIES


def expert(size: int, labels: int, dropout: float) -> nn.Sequential:
    """What turns one modality's features (n, size) into evidence (n, labels).

    Not linear: what damaged text still says has to be read differently. Two of them are as
    large as the head of `ConcatenationFusion`.
    """
    return nn.Sequential(
        nn.Linear(size, size), nn.GELU(), nn.Dropout(dropout), nn.Linear(size, labels)
    )


class EvidenceFusion(nn.Module):
    """The quality-weighted sum of what each modality's expert says.

    An expert turns one modality's features into evidence, a logit per label. A modality of
    low quality weighs less (paper). What it loses, its recovered features take over, through
    the same expert (our own reading). Since evidence adds up, undetected damage to one
    modality shifts the logits alike whatever the other one says; how that compares with a joint
    head is measured in tests/benchmarks/RESULTS.md. `prior` (2,): how much recovered evidence
    is worth, learned.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(len(MODALITIES)))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(
        self, own: Tensor, recovered: Tensor, trust: Tensor, recovered_trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weigh and add up.

        own, recovered (batch, 2, labels): evidence of the features as they came and of the
        recovered ones. trust (batch, 2) in [0, 1], 0 where absent; recovered_trust (batch, 2),
        0 where there is nothing to recover from. Returns logits (batch, labels) and weights
        (batch, 2), a modality's share in the sum.
        """
        worth = (1 - trust) * recovered_trust * self.prior.sigmoid()
        evidence = trust[..., None] * own + worth[..., None] * recovered
        return self.bias + evidence.sum(1), _shares(trust + worth)


class ConcatenationFusion(nn.Module):
    """A joint head over the concatenated features, blended with recovered ones by trust.

    The rival that everyone builds first; where nothing is recovered, absent features are zero.
    """

    def __init__(self, size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(2 * size, size), nn.GELU(), nn.Dropout(dropout), nn.Linear(size, labels)
        )

    def forward(
        self, features: Tensor, recovered: Tensor, trust: Tensor, recovered_trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Blend and classify; features, recovered (batch, 2, d), the rest as above."""
        worth = (1 - trust) * recovered_trust
        blended = trust[..., None] * features + worth[..., None] * recovered
        weights = trust + worth
        return self.head(blended.flatten(1)), weights / weights.sum(-1, keepdim=True).clamp_min(
            1e-6
        )


def _shares(worth: Tensor) -> Tensor:
    return worth / worth.sum(-1, keepdim=True).clamp_min(1e-6)


def average_fusion(evidence: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Late fusion: the mean of the present modalities' probabilities, as logits.

    evidence (batch, 2, labels), present (batch, 2) bool.
    """
    weights = present / present.sum(-1, keepdim=True)
    mean = (evidence.softmax(-1) * weights[..., None]).sum(1)
    # A probability can be too small for a float, and the loss of its label infinite.
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), weights


def single_fusion(
    evidence: Tensor, present: Tensor, modality: str, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One modality alone; where it is absent the labels' learned prior, bias (labels,)."""
    column = MODALITIES.index(modality)
    there = present[:, column, None]
    weights = torch.zeros(present.shape, device=present.device)
    weights[:, column] = 1.0
    return torch.where(there, evidence[:, column], bias), weights
