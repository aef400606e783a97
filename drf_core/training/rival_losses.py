"""What the confidences of the rivals QMF and PDF learn from, beside the common loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drf_core.model.dynamic_fusion import PredictedFusion, energy_confidence
from drf_core.model.head import DRFOutput
from drf_core.model.modeling_drf import DRFModel

# As in QMF's own experiments.
_RANKING_WEIGHT = 0.1


class PastLosses:
    """The mean loss of each training post so far, of each modality's expert; (posts, 2)."""

    def __init__(self, posts: int) -> None:
        self.total = torch.zeros(posts, 2)
        self.seen = torch.zeros(posts, 2)

    def add(self, index: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Count the losses (batch, 2) of the posts at index in.

        Returns their means so far, scaled so that those of all posts span 0 to 1.
        """
        self.total[index] += (losses * present).cpu()
        self.seen[index] += present.float().cpu()
        means = self.total / self.seen.clamp_min(1)
        low, high = means.amin(0), means.amax(0)
        return ((means[index] - low) / (high - low).clamp_min(1e-6)).to(losses.device)


def confidence_loss(
    model: DRFModel,
    output: DRFOutput,
    labels: Tensor,
    present: Tensor,
    index: Tensor,
    past: PastLosses,
) -> Tensor:
    """The loss of a rival's confidences, 0 for every other design.

    labels (batch,), negative where unlabelled; present (batch, 2) bool; index (batch,): training
    post of each row, on the CPU.
    """
    fusion = model.design.fusion
    assert output.unimodal_logits is not None and output.hidden is not None
    if fusion not in ("energy", "predicted"):
        return output.unimodal_logits.new_zeros(())
    counted = present & (labels >= 0)[:, None]
    said = output.unimodal_logits
    of_label = labels.clamp_min(0)[:, None, None].expand(-1, 2, 1)
    logs = said.detach().log_softmax(-1).gather(-1, of_label)[..., 0]
    if fusion == "energy":
        means = past.add(index, -logs, counted)
        return _RANKING_WEIGHT * ranking_loss(energy_confidence(said), means, counted)
    assert isinstance(model.fusion, PredictedFusion)
    errors = (model.fusion.confidence(output.hidden) - logs.exp()).square()
    return (errors * counted).sum() / counted.sum().clamp_min(1)


def ranking_loss(confidence: Tensor, losses: Tensor, counted: Tensor) -> Tensor:
    """Of two posts the one with the greater loss should be the less confident, by as much (QMF).

    confidence, losses, counted (bool): (batch, 2), a column per modality. Each row is compared with
    the next of the batch.
    """
    gap = losses - losses.roll(1, 0)
    short = functional.relu(gap.sign() * (confidence - confidence.roll(1, 0)) + gap.abs())
    both = counted & counted.roll(1, 0)
    return (short * both).sum() / both.sum().clamp_min(1) * both.shape[1]
