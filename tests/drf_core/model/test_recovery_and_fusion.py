"""Recovery reads the memory of pairs; fusion bounds evidence by trust."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from drf_core.model.fusion import (
    ConcatenationFusion,
    EvidenceFusion,
    average_fusion,
    bounded,
    make_fusion,
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


@pytest.mark.parametrize("loss", [sample_loss, distribution_loss])
def test_recovery_learns_towards_the_truth_and_the_truth_stays(loss: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(40, 4, generator=generator, requires_grad=True)
    recovered = (0.3 * torch.randn(40, 4, generator=generator) + 1).requires_grad_()
    before = loss(recovered, true)
    before.backward()
    assert true.grad is None and bool(recovered.grad.abs().sum(1).gt(0).all())
    after = loss(recovered - 0.5 * recovered.grad, true)
    assert bool(after < before)


@pytest.mark.parametrize("loss", [sample_loss, distribution_loss])
def test_a_batch_without_undisrupted_pairs_teaches_recovery_nothing(
    loss: Callable[..., Any],
) -> None:
    none = torch.zeros(0, 4, requires_grad=True)
    assert float(loss(none, torch.zeros(0, 4))) == 0


def test_one_post_is_no_distribution_to_compare() -> None:
    assert float(distribution_loss(torch.ones(1, 4), torch.zeros(1, 4))) == 0


def spread_of(evidence: torch.Tensor) -> torch.Tensor:
    """How far apart evidence (..., labels) puts the labels, in logits."""
    return evidence.amax(-1) - evidence.amin(-1)


def test_a_modality_can_move_the_labels_no_further_than_its_trust_allows() -> None:
    sure = 200 * torch.eye(3)
    for level in (0.1, 0.5, 0.9):
        said = bounded(sure, torch.full((3,), level))
        most = math.log((level * 3 + 1 - level) / (1 - level))
        assert torch.allclose(spread_of(said), torch.tensor(most), atol=1e-4)
        assert said.argmax(-1).tolist() == [0, 1, 2]


def test_no_trust_says_nothing_and_full_trust_everything() -> None:
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bounded(logits, torch.zeros(5, 2)), torch.zeros(5, 2, 3))
    whole = bounded(logits, torch.ones(5, 2))
    assert torch.allclose(whole.softmax(-1), logits.softmax(-1), atol=1e-6)


def test_more_trust_says_more_and_always_the_same_label() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0]).expand(6, 3)
    said = bounded(logits, torch.linspace(0, 1, 6))
    assert bool((spread_of(said).diff() > 0).all())
    assert said[1:].argmax(-1).tolist() == [0] * 5


def test_what_is_sure_of_the_wrong_label_can_be_learned_from() -> None:
    logits = torch.tensor([[300.0, 0.0]], requires_grad=True)
    said = bounded(logits, torch.ones(1))
    assert bool(said.isfinite().all())
    torch.nn.functional.cross_entropy(said, torch.tensor([1])).backward()
    assert bool(logits.grad.isfinite().all())


def test_what_says_nothing_leaves_the_other_modality_alone() -> None:
    fusion = EvidenceFusion(3)
    own = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    logits, evidence = fusion(own, own, torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    assert torch.allclose(logits.softmax(-1), own[:, 0].softmax(-1), atol=1e-6)
    assert torch.equal(evidence[:, 1], torch.zeros(1, 3))


def test_recovered_evidence_counts_for_what_trust_leaves_and_what_it_is_worth() -> None:
    fusion = EvidenceFusion(3)
    own, recovered = (torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(n))
                      for n in range(2))  # fmt: skip
    trust, of_recovered = torch.tensor([[0.4, 0.0]]), torch.tensor([[0.5, 0.9]])
    _, evidence = fusion(own, recovered, trust, of_recovered)
    half = bounded(recovered, 0.5 * torch.tensor([[0.6 * 0.5, 0.9]]))
    assert torch.allclose(evidence, bounded(own, trust) + half, atol=1e-6)
    with torch.no_grad():
        fusion.worth.fill_(-100.0)
    assert torch.allclose(fusion(own, recovered, trust, of_recovered)[1], bounded(own, trust))


@pytest.mark.parametrize("concatenating", [False, True])
def test_a_distrusted_modality_gives_way_to_its_recovery(concatenating: bool) -> None:
    torch.manual_seed(0)
    fusion = ConcatenationFusion(3, 3, 0.0).eval() if concatenating else EvidenceFusion(3)
    own, recovered = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    changed = own.clone()
    changed[:, 1] = changed[:, 1].flip(-1) * 100
    trust, whole = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    gone, evidence = fusion(own, recovered, trust, whole)
    same, _ = fusion(changed, recovered, trust, whole)
    assert torch.equal(gone, same)
    assert float(spread_of(evidence[0, 1])) > 0
    without, alone = fusion(own, recovered, trust, torch.zeros(1, 2))
    assert not torch.allclose(gone, without)
    assert torch.allclose(alone[0, 1], torch.zeros(3), atol=1e-6)


def test_damage_to_one_modality_shifts_evidence_the_same_whatever_the_other_says() -> None:
    fusion = EvidenceFusion(3)
    text, image, damaged = (torch.randn(3) for _ in range(3))
    whole, none = torch.full((1, 2), 0.9), torch.zeros(1, 2)
    shifts = []
    for said in (text, -text):
        before, _ = fusion(torch.stack([said, image])[None], torch.zeros(1, 2, 3), whole, none)
        after, _ = fusion(torch.stack([said, damaged])[None], torch.zeros(1, 2, 3), whole, none)
        shifts.append(after - before)
    assert torch.allclose(*shifts, atol=1e-6)


def test_late_fusion_averages_what_is_there() -> None:
    evidence = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).repeat(2, 1, 1)
    present = torch.tensor([[True, True], [True, False]])
    logits, shares = average_fusion(evidence, present)
    assert torch.allclose(shares[0], 0.5 * evidence[0].log_softmax(-1))
    assert torch.equal(shares[1, 1], torch.zeros(2))
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
    logits, shares = single_fusion(evidence, present, "image", bias)
    assert torch.equal(logits[0], evidence[0, 1]) and torch.equal(logits[1], bias)
    assert torch.equal(shares[:, 1], logits) and not bool(shares[:, 0].any())


def test_a_design_whose_fusion_nobody_wrote_is_not_trained_with_another() -> None:
    with pytest.raises(ValueError, match="no fusion is called 'largest'"):
        make_fusion("largest", 4, 3, 0.0)
