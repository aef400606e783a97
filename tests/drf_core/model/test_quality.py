"""Distributions and quality: a rank among held-out posts, low for damaged ones."""

from __future__ import annotations

import pytest
import torch

from drf_core.model.distribution import ShrunkGaussian, ledoit_wolf
from drf_core.model.quality import QualityEstimator, ReferenceRank, trust


def correlated(rows: int, size: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) / size**0.5
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) @ mixing


def test_the_density_is_that_of_the_gaussian() -> None:
    features = correlated(5000, 4, seed=1)
    ours = ShrunkGaussian(4)
    ours.fit(features)
    covariance = ledoit_wolf((features - features.mean(0)).double()).float()
    exact = torch.distributions.MultivariateNormal(features.mean(0), covariance)
    points = correlated(10, 4, seed=2)
    difference = ours.log_density(points) * 4 - exact.log_prob(points)
    assert torch.allclose(difference, difference[0].expand(10), atol=1e-3)


def test_shrinkage_makes_a_covariance_of_few_posts_usable() -> None:
    few = correlated(20, 50, seed=3).double()
    eigenvalues = torch.linalg.eigvalsh(ledoit_wolf(few - few.mean(0)))
    assert eigenvalues.min() > 1e-3


def test_shrinkage_fades_with_many_posts() -> None:
    many = correlated(20_000, 5, seed=4).double()
    many = many - many.mean(0)
    assert torch.allclose(ledoit_wolf(many), many.T @ many / len(many), atol=1e-3)


def test_one_feature_is_no_distribution() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ShrunkGaussian(3).fit(torch.zeros(1, 3))


@pytest.fixture
def estimator() -> QualityEstimator:
    estimator = QualityEstimator(16, reference_length=500)
    estimator.fit(correlated(1000, 16, 1), correlated(1000, 16, 2, scale=0.5) + 0.3)
    estimator.set_reference(correlated(500, 16, 3))
    return estimator


def test_quality_of_undisrupted_posts_is_uniform(estimator: QualityEstimator) -> None:
    quality = estimator(correlated(4000, 16, 4))
    assert 0.03 < (quality < 0.05).float().mean() < 0.07
    assert abs(quality.mean() - 0.5) < 0.05


def test_quality_of_disrupted_posts_is_low(estimator: QualityEstimator) -> None:
    quality = estimator(correlated(1000, 16, 5, scale=0.5) + 0.3)
    assert quality.median() < 0.05


def test_quality_is_never_zero() -> None:
    rank = ReferenceRank(99)
    rank.set(torch.randn(99))
    quality = rank(torch.tensor([-1e9, 1e9]))
    assert quality[0] == pytest.approx(0.01) and quality[1] == 1.0


def test_trust_is_flat_above_the_threshold_and_falls_below() -> None:
    values = trust(torch.tensor([0.0, 0.025, 0.05, 0.3, 1.0]), threshold=0.05, floor=0.2)
    assert values.tolist() == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])
