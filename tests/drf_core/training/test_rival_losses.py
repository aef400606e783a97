"""What the confidences of the rivals QMF and PDF mean, and what they learn from."""

from __future__ import annotations

import torch

from drf_core.model.dynamic_fusion import co_belief_weights, energy_confidence, energy_fusion
from drf_core.training.rival_losses import PastLosses, ranking_loss

BOTH = torch.tensor([[True, True]])


def test_energy_fusion_follows_the_surer_modality_and_leaves_out_an_absent_one() -> None:
    said = torch.tensor([[[4.0, -4.0], [-1.0, 1.0]]])
    sure, unsure = energy_confidence(said)[0]
    assert sure > unsure
    logits, evidence = energy_fusion(said, BOTH)
    assert torch.allclose(logits, sure * said[:, 0] + unsure * said[:, 1])
    assert torch.allclose(evidence.sum(1), logits)
    alone, _ = energy_fusion(said, torch.tensor([[False, True]]))
    assert torch.allclose(alone, unsure * said[:, 1])


def test_confidences_in_the_order_of_their_losses_cost_nothing() -> None:
    losses = torch.tensor([[0.1, 0.5], [0.6, 0.5]])
    counted = torch.ones(2, 2, dtype=torch.bool)
    ordered, reversed_ = (
        torch.tensor([[0.9, 0.5], [0.1, 0.5]]),
        torch.tensor([[0.1, 0.5], [0.9, 0.5]]),
    )
    assert ranking_loss(ordered, losses, counted) == 0
    # Short by .8 and the margin of .5, in both comparisons of the first modality.
    assert torch.isclose(ranking_loss(reversed_, losses, counted), torch.tensor(1.3))
    assert ranking_loss(reversed_, losses, torch.tensor([[True, True], [False, True]])) == 0


def test_past_losses_are_means_of_each_post_that_span_zero_to_one() -> None:
    past = PastLosses(3)
    everything = torch.ones(3, 2, dtype=torch.bool)
    past.add(torch.arange(3), torch.tensor([[1.0, 4.0], [2.0, 0.0], [3.0, 2.0]]), everything)
    again = torch.tensor([[5.0, 9.0]])
    found = past.add(torch.tensor([0]), again, torch.tensor([[True, False]]))
    # Means so far: 3, 2, 3 and, the second modality being absent, 4, 0, 2.
    assert torch.allclose(found, torch.tensor([[1.0, 1.0]]))
    middle = past.add(torch.tensor([2]), again, torch.zeros(1, 2, dtype=torch.bool))
    assert torch.allclose(middle, torch.tensor([[1.0, 0.5]]))


def test_belief_rises_with_the_own_confidence_and_falls_for_flat_probabilities() -> None:
    even = torch.zeros(1, 2, 3)
    peaked = torch.tensor([[[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]]])
    alike, ahead = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.4]])
    assert torch.allclose(co_belief_weights(alike, even, BOTH), torch.tensor([[0.5, 0.5]]))
    first, second = co_belief_weights(ahead, even, BOTH)[0]
    assert first > second and torch.isclose(first + second, torch.tensor(1.0))
    sharper, flatter = co_belief_weights(alike, peaked, BOTH)[0]
    assert sharper > flatter
    only = co_belief_weights(ahead, peaked, torch.tensor([[False, True]]))
    assert torch.allclose(only, torch.tensor([[0.0, 1.0]]))
