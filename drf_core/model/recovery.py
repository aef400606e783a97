"""Recovery of a missing modality from the other one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from drf_core.model.quality import ReferenceRank


class Recovery(nn.Module):
    """The mapping g_{n->m}: features of modality n -> features of modality m.

    Inter-modal mappings supervised by samples and by distributions are the paper's. That
    the paired queue serves as memory (attention over Q_n reads out Q_m) and a small network
    corrects what was read is our own reading.

    d below is the projection size, L the filled length of the paired queue.
    """

    def __init__(self, size: int, sharpness: float, dropout: float, reference_length: int) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.correction = nn.Sequential(
            nn.Linear(2 * size, size), nn.GELU(), nn.Dropout(dropout), nn.Linear(size, size)
        )
        nn.init.zeros_(self.correction[3].weight)
        nn.init.zeros_(self.correction[3].bias)
        self.reference = ReferenceRank(reference_length)

    def forward(
        self, source: Tensor, keys: Tensor, values: Tensor, own: Tensor | None = None
    ) -> Tensor:
        """Recover features.

        source: (batch, d) of modality n. keys, values: (L, d), the queue's entries of n and
        of m. own: (batch, L) true where an entry is the post itself; it is not read, or
        training would recover a post from its own answer. Returns (batch, d).
        """
        similarity = self.sharpness * cosine(source, keys)
        if own is not None:
            similarity = similarity.masked_fill(own, torch.finfo(similarity.dtype).min)
        read = similarity.softmax(-1) @ values
        return read + self.correction(torch.cat([source, read], -1))

    def errors(self, keys: Tensor, values: Tensor) -> Tensor:
        """How far each entry's own recovery, from all other entries, is off; -> (L,)."""
        own = torch.eye(len(keys), dtype=torch.bool, device=keys.device)
        return (self(keys, keys, values, own) - values).norm(dim=-1)

    def score(self, source: Tensor, keys: Tensor, errors: Tensor) -> Tensor:
        """The error to expect of a recovery, negated, so that high is good; -> (batch,).

        errors (L,): of the entries it is read from, see `errors`. What is read from entries
        that were badly recovered themselves will be off, too.
        """
        return -((self.sharpness * cosine(source, keys)).softmax(-1) @ errors)

    def quality(self, source: Tensor, keys: Tensor, errors: Tensor) -> Tensor:
        """Quality of a recovered feature: rank of its score among held-out recoveries."""
        return self.reference(self.score(source, keys, errors))


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Pairwise cosine similarity; (n, d), (k, d) -> (n, k)."""
    return functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T


def sample_loss(recovered: Tensor, true: Tensor) -> Tensor:
    """Distance to the post's own features, (n, d) each: supervision by samples (paper)."""
    return functional.smooth_l1_loss(recovered, true.detach()) if len(true) else recovered.sum()


def distribution_loss(recovered: Tensor, true: Tensor) -> Tensor:
    """Divergence of recovered features from the modality's distribution (paper).

    KL divergence of diagonal Gaussians by their moments (our own reading), averaged over
    dimensions; recovered (n, d), n >= 2, true (k, d).
    """
    if recovered.shape[0] < 2:
        return recovered.sum() * 0.0
    target = true.detach()
    variance, wanted = recovered.var(0) + 1e-3, target.var(0) + 1e-3
    distance = (recovered.mean(0) - target.mean(0)).square()
    return 0.5 * ((variance + distance) / wanted - 1 - (variance / wanted).log()).mean()
