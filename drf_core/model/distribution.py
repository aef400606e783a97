"""The distribution of a modality: a Gaussian with shrunk covariance over raw features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShrunkGaussian(nn.Module):
    """Gaussian fitted to a feature queue, covariance shrunk as Ledoit and Wolf (2004).

    The paper approximates a modality's distribution from its queue; Gaussian form and
    shrinkage are our own reading.

    Buffers: mean (size,); whitener (size, size), with |whitener (x - mean)|^2 the squared
    Mahalanobis distance; log_determinant () of the covariance.
    """

    mean: Tensor
    whitener: Tensor
    log_determinant: Tensor

    def __init__(self, size: int, covariance: str = "full") -> None:
        super().__init__()
        self.covariance = covariance
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitener", torch.eye(size))
        self.register_buffer("log_determinant", torch.zeros(()))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fit to features (n, size), n >= 2; raises ValueError for fewer."""
        if features.shape[0] < 2:
            raise ValueError(f"a distribution needs at least 2 features, got {features.shape[0]}")
        features = features.double()
        mean = features.mean(0)
        covariance = ledoit_wolf(features - mean)
        if self.covariance == "diagonal":
            covariance = covariance.diagonal().diag()
        # A dimension that never varies (a dead unit) would leave the covariance singular.
        variance = covariance.diagonal()
        covariance = covariance + (1e-6 * float(variance.mean()) + 1e-12) * torch.eye(
            len(variance), dtype=covariance.dtype, device=covariance.device
        )
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(len(variance), dtype=factor.dtype, device=factor.device)
        self.mean.copy_(mean)
        self.whitener.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        self.log_determinant.copy_(2 * factor.diagonal().log().sum())

    def log_density(self, features: Tensor) -> Tensor:
        """Log density up to a constant, divided by the feature's size; (n, size) -> (n,)."""
        whitened = (features.float() - self.mean) @ self.whitener.T
        return -0.5 * (whitened.square().sum(-1) + self.log_determinant) / self.mean.shape[0]


def ledoit_wolf(centred: Tensor) -> Tensor:
    """Shrunk covariance of centred features (n, size) -> (size, size).

    Shrinks towards a multiple of the identity by the intensity that Ledoit and Wolf (2004)
    estimate to minimise the expected squared error.
    """
    rows, size = centred.shape
    covariance = centred.T @ centred / rows
    scale = covariance.diagonal().mean()
    fourth = (centred.square().T @ centred.square()).sum()
    spread = (fourth / rows - covariance.square().sum()) / rows
    distance = covariance.square().sum() - size * scale**2
    shrinkage = (spread / distance).clamp(0.0, 1.0) if float(distance) > 0 else torch.tensor(1.0)
    return (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(
        size, dtype=centred.dtype, device=centred.device
    )
