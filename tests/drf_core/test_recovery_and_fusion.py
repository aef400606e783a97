"""Recovery reads the memory of pairs; fusion weighs by trust."""

from __future__ import annotations

import pytest
import torch

from drf_core.fusion import QualityFusion
from drf_core.recovery import Recovery, distribution_loss, sample_loss


@pytest.fixture
def memory() -> tuple[torch.Tensor, torch.Tensor]:
    keys = torch.eye(8)
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    return keys, values


def test_a_known_source_recovers_its_partner(memory: tuple[torch.Tensor, torch.Tensor]) -> None:
    keys, values = memory
    recovery = Recovery(8, sharpness=50.0, dropout=0.0, reference_length=10)
    assert torch.allclose(recovery(keys[2:3], keys, values), values[2:3], atol=1e-4)


def test_a_training_post_does_not_read_its_own_entry(
    memory: tuple[torch.Tensor, torch.Tensor],
) -> None:
    keys, values = memory
    recovery = Recovery(8, sharpness=50.0, dropout=0.0, reference_length=10)
    own = torch.zeros(1, 8, dtype=torch.bool)
    own[0, 2] = True
    others = values[[0, 1, 3, 4, 5, 6, 7]].mean(0, keepdim=True)
    assert torch.allclose(recovery(keys[2:3], keys, values, own), others, atol=1e-4)


def test_sources_like_the_memory_recover_with_more_quality() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 16, generator=generator)
    keys = directions.repeat(20, 1) + 0.2 * torch.randn(60, 16, generator=generator)
    near = directions.repeat(10, 1) + 0.4 * torch.randn(30, 16, generator=generator)
    far = torch.randn(30, 16, generator=generator)
    recovery = Recovery(16, 10.0, 0.0, reference_length=30)
    recovery.reference.set(recovery.score(near, keys))
    assert recovery.quality(far, keys).mean() < 0.2 < recovery.quality(near, keys).mean()


def test_the_sample_loss_is_least_at_the_true_features() -> None:
    true = torch.randn(10, 4)
    assert sample_loss(true, true) == 0 < sample_loss(true + 1, true)


def test_the_distribution_loss_sees_a_shift_and_a_collapse() -> None:
    true = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    same = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    base = distribution_loss(same, true)
    assert base < 0.05
    assert distribution_loss(same + 1, true) > base + 0.3
    assert distribution_loss(same * 0.1, true) > base + 0.3


def test_equal_trust_weighs_equally_and_less_trust_less() -> None:
    fusion = QualityFusion(4, 3, 0.0)
    present = torch.tensor([[True, True], [True, True], [True, False]])
    weights = fusion.weights(torch.tensor([[1.0, 1.0], [1.0, 0.25], [1.0, 1.0]]), present)
    assert weights[0].tolist() == [0.5, 0.5]
    assert weights[1].tolist() == pytest.approx([0.8, 0.2])
    assert torch.allclose(weights.sum(-1), torch.ones(3))


def test_a_distrusted_modality_gives_way_to_its_recovery() -> None:
    fusion = QualityFusion(4, 3, 0.0).eval()
    features, recovered = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    present = torch.tensor([[True, True]])
    absent = torch.tensor([[True, False]])
    gone, _ = fusion(features, recovered, torch.tensor([[1.0, 1.0]]), absent)
    changed = features.clone()
    changed[:, 1] += 100
    same, _ = fusion(changed, recovered, torch.tensor([[1.0, 1.0]]), absent)
    assert torch.equal(gone, same)
    trusted, _ = fusion(features, recovered, torch.tensor([[1.0, 1.0]]), present)
    doubted, _ = fusion(features, recovered, torch.tensor([[1.0, 0.01]]), present)
    assert not torch.allclose(trusted, doubted)
