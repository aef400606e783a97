"""Recovery reads the memory of pairs; fusion weighs by trust."""

from __future__ import annotations

import pytest
import torch

from drf_core.model.fusion import (
    ConcatenationFusion,
    EvidenceFusion,
    average_fusion,
    single_fusion,
)
from drf_core.model.recovery import Recovery, distribution_loss, sample_loss


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


def test_what_is_read_from_badly_recovered_entries_has_less_quality() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = 4 * torch.eye(16)[:2]
    kinds = torch.arange(60) % 2
    keys = directions[kinds] + 0.1 * torch.randn(60, 16, generator=generator)
    # Sources of the first kind have one answer, those of the second any.
    noise = torch.randn(60, 16, generator=generator)
    values = torch.where(kinds[:, None] == 0, torch.ones(60, 16), 3 * noise)
    recovery = Recovery(16, 10.0, 0.0, reference_length=60)
    errors = recovery.errors(keys, values)
    assert errors[kinds == 0].max() < errors[kinds == 1].min()
    recovery.reference.set(recovery.score(keys, keys, errors))
    known, unknown = (recovery.quality(directions[k : k + 1], keys, errors) for k in (0, 1))
    assert float(unknown) < 0.6 < float(known)


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
    fusion = EvidenceFusion(3)
    evidence = torch.randn(3, 2, 3)
    trust = torch.tensor([[1.0, 1.0], [1.0, 0.25], [1.0, 0.0]])
    logits, weights = fusion(evidence, evidence, trust, torch.zeros(3, 2))
    assert weights[0].tolist() == [0.5, 0.5]
    assert weights[1].tolist() == pytest.approx([0.8, 0.2])
    assert weights[2].tolist() == [1.0, 0.0]
    assert torch.allclose(logits[1], evidence[1, 0] + 0.25 * evidence[1, 1])


@pytest.mark.parametrize("concatenating", [False, True])
def test_a_distrusted_modality_gives_way_to_its_recovery(concatenating: bool) -> None:
    fusion = ConcatenationFusion(3, 3, 0.0).eval() if concatenating else EvidenceFusion(3)
    own, recovered = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    changed = own.clone()
    changed[:, 1] += 100
    trust, whole = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    gone, weights = fusion(own, recovered, trust, whole)
    same, _ = fusion(changed, recovered, trust, whole)
    assert torch.equal(gone, same)
    assert 0 < float(weights[0, 1].detach()) < 1
    without, alone = fusion(own, recovered, trust, torch.zeros(1, 2))
    assert not torch.allclose(gone, without)
    assert alone.tolist() == [[1.0, 0.0]]


def test_damage_to_one_modality_shifts_evidence_the_same_whatever_the_other_says() -> None:
    fusion = EvidenceFusion(3)
    text, image, damaged = (torch.randn(3) for _ in range(3))
    whole, none = torch.ones(1, 2), torch.zeros(1, 2)
    shifts = []
    for said in (text, -text):
        before, _ = fusion(torch.stack([said, image])[None], torch.zeros(1, 2, 3), whole, none)
        after, _ = fusion(torch.stack([said, damaged])[None], torch.zeros(1, 2, 3), whole, none)
        shifts.append(after - before)
    assert torch.allclose(*shifts, atol=1e-6)


def test_late_fusion_averages_what_is_there() -> None:
    evidence = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).repeat(2, 1, 1)
    present = torch.tensor([[True, True], [True, False]])
    logits, weights = average_fusion(evidence, present)
    assert weights.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    both = 0.5 * evidence[0].softmax(-1).sum(0)
    assert torch.allclose(logits[0].softmax(-1), both)
    assert torch.allclose(logits[1].softmax(-1), evidence[0, 0].softmax(-1))


def test_late_fusion_of_what_is_very_sure_can_be_learned_from() -> None:
    evidence = torch.tensor([[[300.0, 0.0], [400.0, 0.0]]], requires_grad=True)
    logits, _ = average_fusion(evidence, torch.tensor([[True, True]]))
    torch.nn.functional.cross_entropy(logits, torch.tensor([1])).backward()
    assert bool(logits.isfinite().all()) and bool(evidence.grad.isfinite().all())


def test_a_single_modality_falls_back_to_its_prior_where_it_is_absent() -> None:
    evidence, bias = torch.randn(2, 2, 3), torch.tensor([0.0, 1.0, 2.0])
    present = torch.tensor([[True, True], [True, False]])
    logits, weights = single_fusion(evidence, present, "image", bias)
    assert torch.equal(logits[0], evidence[0, 1]) and torch.equal(logits[1], bias)
    assert weights.tolist() == [[0.0, 1.0], [0.0, 1.0]]
