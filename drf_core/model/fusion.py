"""Fusion of both modalities: evidence that follows their qualities, and the rivals of that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drf_core.model.dynamic_fusion import PredictedFusion, energy_fusion
from schemas.annotations import MODALITIES


def expert(size: int, labels: int, dropout: float) -> nn.Sequential:
    """What turns one modality's features (n, size) into evidence (n, labels).

    Not linear: what damaged text still says has to be read differently. Two of them are as
    large as the head of `ConcatenationFusion`.
    """
    return nn.Sequential(
        nn.Linear(size, size), nn.GELU(), nn.Dropout(dropout), nn.Linear(size, labels)
    )


def bounded(logits: Tensor, trust: Tensor) -> Tensor:
    """Evidence of a modality that is right with probability trust, and else says nothing.

    logits (..., labels) under a uniform prior, trust (...) in [0, 1]. A post's label has the
    odds trust * labels * p + 1 - trust against a guess: whatever a modality says, it cannot move
    the fusion by more than its trust allows (our own reading). Returns (..., labels).
    """
    labels = logits.shape[-1]
    odds = trust[..., None] * labels * logits.softmax(-1) + (1 - trust[..., None])
    # A probability can be too small for a float, and the loss of its label infinite.
    return odds.clamp_min(1e-6).log()


class EvidenceFusion(nn.Module):
    """The sum of what each modality's expert says, as far as it is trusted.

    An expert turns one modality's features into evidence, a logit per label. A modality of low
    quality is trusted less and so weighs less (paper). What it loses, its recovered features take
    over, through the same expert (our own reading). How that compares with a joint head is
    measured in tests/benchmarks/RESULTS.md. `worth` (2,): how much recovered evidence is worth,
    learned.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.worth = nn.Parameter(torch.zeros(len(MODALITIES)))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(
        self, own: Tensor, recovered: Tensor, trust: Tensor, recovered_trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add up.

        own, recovered (batch, 2, labels): what the experts say of the features as they came and
        of the recovered ones. trust (batch, 2) in [0, 1], 0 where absent; recovered_trust
        (batch, 2), 0 where there is nothing to recover from. Returns logits (batch, labels) and
        what each modality put into them (batch, 2, labels).
        """
        worth = (1 - trust) * recovered_trust * self.worth.sigmoid()
        evidence = bounded(own, trust) + bounded(recovered, worth)
        return self.bias + evidence.sum(1), evidence


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
        """Blend and classify; features, recovered (batch, 2, d), the rest as above.

        What a modality put in is what the logits lose without it.
        """
        worth = (1 - trust) * recovered_trust
        blended = trust[..., None] * features + worth[..., None] * recovered
        logits = self.head(blended.flatten(1))
        if self.training:
            return logits, torch.zeros(*blended.shape[:2], logits.shape[-1], device=logits.device)
        kept = 1 - torch.eye(len(MODALITIES), device=blended.device)
        without = [self.head((blended * row[:, None]).flatten(1)) for row in kept]
        return logits, torch.stack([logits - other for other in without], 1)


def make_fusion(kind: str, size: int, labels: int, dropout: float) -> nn.Module:
    """What a design's fusion learns; kind as in `designs.Design`, size of the features.

    Raises ValueError for a kind that there is not.
    """
    if kind == "concatenation":
        return ConcatenationFusion(size, labels, dropout)
    if kind not in ("evidence", "average", "energy", "predicted", *MODALITIES):
        raise ValueError(f"no fusion is called {kind!r}")
    return PredictedFusion(size) if kind == "predicted" else EvidenceFusion(labels)


@dataclass(frozen=True)
class Features:
    """Of a batch: hidden, recovered (batch, 2, d), said (batch, 2, labels) by each modality's own
    head, zero where it is absent, present (batch, 2) bool.
    """

    hidden: Tensor
    recovered: Tensor
    said: Tensor
    present: Tensor


def fuse(
    kind: str, fusion: nn.Module, of: Features, trust: tuple[Tensor, Tensor], heads: nn.ModuleDict
) -> tuple[Tensor, Tensor]:
    """Logits (batch, labels) and evidence (batch, 2, labels) of a kind of fusion.

    fusion: what `make_fusion` made for it. trust: (batch, 2) each, in what is present and in what
    was recovered. heads: of each modality.
    """
    if kind == "average":
        return average_fusion(of.said, of.present)
    if kind == "energy":
        return energy_fusion(of.said, of.present)
    if kind == "predicted":
        return fusion(of.hidden, of.said, of.present)
    if kind in MODALITIES:
        return single_fusion(of.said, of.present, kind, fusion.bias)
    if kind == "concatenation":
        return fusion(of.hidden, of.recovered, *trust)
    recovered = [heads[m](of.recovered[:, n]) for n, m in enumerate(MODALITIES)]
    return fusion(of.said, torch.stack(recovered, 1), *trust)


def average_fusion(said: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Late fusion: the mean of the present modalities' probabilities, as logits.

    said (batch, 2, labels), present (batch, 2) bool. A modality's evidence is its logarithm's
    share.
    """
    weights = (present / present.sum(-1, keepdim=True))[..., None]
    mean = (said.softmax(-1) * weights).sum(1)
    # A probability can be too small for a float, and the loss of its label infinite.
    logits = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return logits, weights * said.log_softmax(-1)


def single_fusion(
    said: Tensor, present: Tensor, modality: str, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One modality alone; where it is absent the labels' learned prior, bias (labels,)."""
    column = MODALITIES.index(modality)
    logits = torch.where(present[:, column, None], said[:, column], bias)
    evidence = torch.zeros_like(said)
    evidence[:, column] = logits
    return logits, evidence
