"""Rivals that weigh modalities post by post: QMF (ICML 2023) and PDF (ICML 2024).

Both are late fusions: a weighted sum of what each modality's expert says. They differ in what the
weight is. Written from the papers, in this project's encoders and missing modalities: an absent one
has the weight 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schemas.annotations import MODALITIES

# The papers scale the energies by it, so that weights are about 1 for a confident modality.
_ENERGY_SCALE = 0.1


def energy_confidence(said: Tensor) -> Tensor:
    """Confidence in what was said: its negative free energy (QMF); (..., labels) -> (...)."""
    return _ENERGY_SCALE * said.logsumexp(-1)


def energy_fusion(said: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Logits weighted by their own confidence (Zhang et al., "Provable Dynamic Fusion", 2023).

    said (batch, 2, labels), present (batch, 2) bool. Returns logits (batch, labels) and what each
    modality put into them. The weights are learned by their ranking alone, not by the fusion.
    """
    weights = energy_confidence(said).detach() * present
    evidence = weights[..., None] * said
    return evidence.sum(1), evidence


class PredictedFusion(nn.Module):
    """Logits weighted by predicted confidences (Cao et al., "Predictive Dynamic Fusion", 2024).

    A head per modality predicts the probability that its expert gives to the true label.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1), nn.Sigmoid())
                for m in MODALITIES
            }
        )

    def confidence(self, features: Tensor) -> Tensor:
        """Predicted probability of the true label; features (batch, 2, d) -> (batch, 2)."""
        # The prediction follows the features; it must not shape them.
        own = features.detach()
        found = [self.heads[m](own[:, column]) for column, m in enumerate(MODALITIES)]
        return torch.cat(found, 1)

    def forward(self, features: Tensor, said: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh and add up; said (batch, 2, labels), present (batch, 2) bool.

        Returns logits (batch, labels) and what each modality put into them (batch, 2, labels).
        """
        weights = co_belief_weights(self.confidence(features).detach(), said.detach(), present)
        evidence = weights[..., None] * said
        return evidence.sum(1), evidence


def co_belief_weights(confidence: Tensor, said: Tensor, present: Tensor) -> Tensor:
    """Weights of both modalities, of sum 1; confidence, present (batch, 2), said (..., labels).

    A modality's belief is its own confidence (mono) and the share of the loss that the other one
    is expected to have (holo). The modality whose probabilities are the flatter of the two is
    believed less, by the ratio of their distances from the uniform distribution (relative
    calibration).
    """
    loss = -confidence.clamp(1e-4, 1 - 1e-4).log()
    belief = confidence + loss.flip(1) / loss.sum(1, keepdim=True)
    probabilities = said.softmax(-1)
    peaked = (probabilities - 1 / probabilities.shape[-1]).abs().mean(-1).clamp_min(1e-6)
    calibrated = belief * (peaked / peaked.flip(1)).clamp_max(1.0)
    return calibrated.masked_fill(~present, -torch.inf).softmax(-1)
