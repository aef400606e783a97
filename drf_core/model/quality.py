"""Quality of a modality: where a post stands among held-out posts of the training corpus."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drf_core.model.distribution import ShrunkGaussian


class ReferenceRank(nn.Module):
    """Conformal p-value of a score among held-out reference scores (our own reading).

    Buffer scores (length,), ascending quantiles of the reference. The reference must not be
    what the score was fitted to, or ordinary posts look strange.
    """

    scores: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.linspace(0.0, 1.0, length))

    def set(self, scores: Tensor) -> None:
        """Replace the reference by the quantiles of scores (n,), n >= 1."""
        # Midpoints: with both ends among them, the extremes would count twice.
        length = self.scores.shape[0]
        steps = (torch.arange(length, device=scores.device) + 0.5) / length
        self.scores.copy_(torch.quantile(scores.detach().float(), steps))

    def forward(self, scores: Tensor) -> Tensor:
        """Share of the reference at most as high, in (0, 1]; (n,) -> (n,)."""
        below = torch.searchsorted(self.scores, scores.float().contiguous(), right=True)
        return (below + 1) / (self.scores.shape[0] + 1)


class QualityEstimator(nn.Module):
    """Quality of one modality's raw encoder features, in (0, 1].

    The score is the log-likelihood ratio of two Gaussians, one fitted to the queue of
    undisrupted posts and one to a queue of posts disrupted in many ways; its rank among
    held-out undisrupted posts is the quality: 0.02 says "stranger than 98 % of them".
    Quality estimated from the queue's distribution is the paper's; ratio and rank are our
    own reading, since one-sided distances call many disruptions typical.
    """

    def __init__(self, size: int, reference_length: int, covariance: str = "full") -> None:
        super().__init__()
        self.undisrupted = ShrunkGaussian(size, covariance)
        self.disrupted = ShrunkGaussian(size, covariance)
        self.reference = ReferenceRank(reference_length)

    def fit(self, undisrupted: Tensor, disrupted: Tensor) -> None:
        """Fit both distributions; (n, size) and (k, size) standardised raw features."""
        self.undisrupted.fit(undisrupted)
        self.disrupted.fit(disrupted)

    def score(self, features: Tensor) -> Tensor:
        """Log-likelihood ratio per dimension, high for undisrupted; (n, size) -> (n,)."""
        return self.undisrupted.log_density(features) - self.disrupted.log_density(features)

    def set_reference(self, features: Tensor) -> None:
        """Take held-out undisrupted features (n, size) as reference."""
        self.reference.set(self.score(features))

    def forward(self, features: Tensor) -> Tensor:
        """Quality of standardised raw features; (n, size) -> (n,)."""
        return self.reference(self.score(features))


def trust(quality: Tensor, threshold: float, floor: float) -> Tensor:
    """How far a modality is believed: 1 from the threshold on, falling to floor at 0.

    Flat above the threshold, so that undisrupted posts are not weighted by chance.
    quality (n,) -> (n,).
    """
    return floor + (1.0 - floor) * (quality / threshold).clamp(max=1.0)
