"""The training loss: sentiment, distillation, and the two supervisions of recovery."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drf_core.model.head import DRFOutput
from drf_core.model.recovery import distribution_loss, sample_loss
from schemas.annotations import MODALITIES


def sentiment_loss(
    output: DRFOutput, labels: Tensor, present: Tensor, unimodal: float, prior: Tensor
) -> Tensor:
    """Cross-entropy of the fusion, plus `unimodal` times that of each present modality.

    labels (batch,), negative where unlabelled: such posts count for nothing here. prior (batch,
    labels): shares of the labels in the corpus of each post, whose logarithm is added to the
    logits, so that these speak for a uniform one (logit adjustment, Menon et al., ICLR 2021).
    """
    assert output.logits is not None and output.unimodal_logits is not None
    known = labels >= 0
    if not bool(known.any()):
        return output.logits.sum() * 0.0
    offset = prior[known].log()
    loss = functional.cross_entropy(output.logits[known] + offset, labels[known])
    for column in range(len(MODALITIES)):
        rows = known & present[:, column]
        if bool(rows.any()):
            loss = loss + unimodal * functional.cross_entropy(
                output.unimodal_logits[rows, column] + prior[rows].log(), labels[rows]
            )
    return loss


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the teacher's view of the undisrupted post; (batch, labels) each."""
    return functional.kl_div(
        logits.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def recovery_loss(
    output: DRFOutput, undisrupted: Tensor, sample: float, distribution: float
) -> Tensor:
    """Both supervisions of recovery (paper), on posts that have both modalities undisrupted.

    undisrupted (batch,) bool; sample, distribution: weights of the two terms.
    """
    assert output.recovered is not None and output.hidden is not None
    loss = torch.zeros((), device=undisrupted.device)
    for column in range(len(MODALITIES)):
        recovered = output.recovered[undisrupted, column]
        true = output.hidden[undisrupted, column]
        loss = loss + sample * sample_loss(recovered, true)
        loss = loss + distribution * distribution_loss(recovered, true)
    return loss
