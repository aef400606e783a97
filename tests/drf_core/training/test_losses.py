"""Each term of the training loss: what it learns from, what it leaves alone, what it lowers."""

from __future__ import annotations

import torch
from torch.nn import functional

from drf_core.model.head import DRFOutput
from drf_core.training.losses import distillation_loss, recovery_loss, sentiment_loss

UNIFORM = torch.full((1, 3), 1 / 3)
LABELS = torch.tensor([0, 2, -1, 1])
PRESENT = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
# The second post of four is damaged, the last has no text.
UNDISRUPTED = torch.tensor([True, False, True, False])


def said(posts: int = 4, size: int = 5) -> DRFOutput:
    """What a model might say of a batch, to be learned from."""
    torch.manual_seed(0)
    return DRFOutput(
        logits=torch.randn(posts, 3, requires_grad=True),
        unimodal_logits=torch.randn(posts, 2, 3, requires_grad=True),
        hidden=torch.randn(posts, 2, size, requires_grad=True),
        recovered=torch.randn(posts, 2, size, requires_grad=True),
    )


def reached(values: torch.Tensor) -> list[bool]:
    """Which posts a gradient reaches."""
    if values.grad is None:
        return [False] * len(values)
    return values.grad.abs().flatten(1).sum(1).gt(0).tolist()


def sentiment(
    output: DRFOutput, unimodal: float = 0.0, prior: torch.Tensor = UNIFORM
) -> torch.Tensor:
    return sentiment_loss(output, LABELS, PRESENT, unimodal, prior.expand(len(LABELS), 3))


def test_the_fusion_learns_from_labelled_posts_alone() -> None:
    output = said()
    loss = sentiment(output)
    known = LABELS >= 0
    expected = functional.cross_entropy(output.logits[known], LABELS[known])
    assert torch.allclose(loss, expected)
    loss.backward()
    assert reached(output.logits) == [True, True, False, True]
    assert output.hidden.grad is None and output.recovered.grad is None
    # Towards the label, away from the others.
    assert bool((output.logits.grad[known].argmin(1) == LABELS[known]).all())
    assert bool((output.logits.grad[known].gather(1, LABELS[known, None]) < 0).all())


def test_each_expert_learns_from_its_own_modality_where_it_is_there() -> None:
    output = said()
    (sentiment(output, unimodal=0.7) - sentiment(output)).backward()
    gradient = output.unimodal_logits.grad.abs().sum(-1).gt(0)
    assert gradient.tolist() == [[True, True], [True, False], [False, False], [False, True]]


def test_the_weight_of_the_experts_counts() -> None:
    output = said()
    none, half, whole = (float(sentiment(output, weight)) for weight in (0.0, 0.5, 1.0))
    assert none < half < whole
    assert abs((whole - none) - 2 * (half - none)) < 1e-5


def test_a_batch_without_labels_teaches_no_sentiment() -> None:
    output = said()
    none = torch.full((4,), -1)
    loss = sentiment_loss(output, none, PRESENT, 0.3, UNIFORM.expand(4, 3))
    loss.backward()
    assert float(loss) == 0 and reached(output.logits) == [False] * 4


def learned(labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """The logits that one post in common learns from labels (posts,)."""
    shared = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.SGD([shared], 1.0)
    for _ in range(300):
        logits = shared.expand(len(labels), 3)
        output = DRFOutput(logits=logits, unimodal_logits=logits[:, None].expand(-1, 2, 3))
        none = torch.zeros(len(labels), 2, dtype=torch.bool)
        loss = sentiment_loss(output, labels, none, 0.0, prior.expand(len(labels), 3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return shared.detach().log_softmax(-1)


def test_a_corpus_of_ninety_per_cent_positives_does_not_make_the_logits_positive() -> None:
    labels = torch.tensor([2] * 90 + [1] * 6 + [0] * 4)
    shares = torch.tensor([0.04, 0.06, 0.90])
    assert torch.allclose(learned(labels, shares).exp(), UNIFORM[0], atol=0.01)
    # Without it they say the corpus's own shares.
    assert torch.allclose(learned(labels, UNIFORM).exp(), shares, atol=0.01)


def test_experts_are_kept_free_of_the_corpus_prior_too() -> None:
    output = said()
    shares = torch.tensor([[0.7, 0.2, 0.1]])
    term = sentiment(output, 1.0, shares) - sentiment(output, 0.0, shares)
    expected = torch.tensor(0.0)
    for column in range(2):
        rows = (LABELS >= 0) & PRESENT[:, column]
        expected = expected + functional.cross_entropy(
            output.unimodal_logits[rows, column] + shares.log(), LABELS[rows]
        )
    assert torch.allclose(term, expected, atol=1e-6)


def test_each_post_is_judged_by_the_prior_of_its_own_corpus() -> None:
    output = DRFOutput(logits=torch.zeros(2, 3), unimodal_logits=torch.zeros(2, 2, 3))
    none, labels = torch.zeros(2, 2, dtype=torch.bool), torch.tensor([0, 0])
    priors = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    loss = sentiment_loss(output, labels, none, 0.0, priors)
    assert torch.allclose(loss, -priors[:, 0].log().mean())


def test_distillation_is_nothing_where_student_and_teacher_agree() -> None:
    logits = torch.randn(6, 3)
    assert abs(float(distillation_loss(logits, logits + 5))) < 1e-6
    assert float(distillation_loss(logits, -logits)) > 0.1


def test_distillation_moves_the_student_towards_the_teacher_and_not_the_teacher() -> None:
    torch.manual_seed(0)
    student = torch.randn(8, 3, requires_grad=True)
    teacher = torch.randn(8, 3, requires_grad=True)
    optimiser = torch.optim.SGD([student], 4.0)
    start = float(distillation_loss(student, teacher.detach()))
    for _ in range(200):
        optimiser.zero_grad()
        distillation_loss(student, teacher.detach()).backward()
        optimiser.step()
    assert float(distillation_loss(student, teacher)) < 0.01 * start
    assert torch.allclose(student.softmax(-1), teacher.softmax(-1), atol=0.02)


def test_distillation_is_the_mean_divergence_from_the_teacher() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    said_by_teacher = teacher.softmax(-1)
    divergence = said_by_teacher * (teacher.log_softmax(-1) - student.log_softmax(-1))
    assert torch.allclose(distillation_loss(student, teacher), divergence.sum(1).mean(), atol=1e-6)


def test_recovery_learns_from_undisrupted_posts_alone_in_both_directions() -> None:
    for sample, distribution in ((1.0, 0.0), (0.0, 1.0)):
        output = said()
        recovery_loss(output, UNDISRUPTED, sample, distribution).backward()
        gradient = output.recovered.grad.abs().sum(-1).gt(0)
        assert gradient.tolist() == [[wanted] * 2 for wanted in UNDISRUPTED.tolist()]
        # What was there is the answer, and not to be learned from here.
        assert output.hidden.grad is None
        assert output.logits.grad is None


def test_both_supervisions_of_recovery_count_by_their_weights() -> None:
    output = said()
    sample, distribution, both, none = (
        float(recovery_loss(output, UNDISRUPTED, *weights).detach())
        for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0), (0.0, 0.0))
    )
    assert none == 0 and sample > 0.05 and distribution > 0.05
    assert abs(both - (2 * sample + 3 * distribution)) < 1e-4


def lowered(sample: float, distribution: float) -> tuple[float, float, float]:
    """How far recovered features end from their posts' own, and in mean and spread."""
    torch.manual_seed(0)
    true = torch.randn(64, 2, 4) * torch.tensor([0.5, 1.0, 1.5, 2.0])
    recovered = (3 + 0.1 * torch.randn(64, 2, 4)).requires_grad_()
    optimiser = torch.optim.Adam([recovered], 0.1)
    everyone = torch.ones(64, dtype=torch.bool)
    for _ in range(400):
        optimiser.zero_grad()
        output = DRFOutput(hidden=true, recovered=recovered)
        recovery_loss(output, everyone, sample, distribution).backward()
        optimiser.step()
    off = (recovered - true).detach()
    return (
        float(off.norm(dim=-1).mean()),
        float(off.mean(0).abs().max()),
        float((recovered.detach().std(0) / true.std(0)).log().abs().max()),
    )


def test_the_sample_loss_brings_every_post_to_its_own_features() -> None:
    distance, mean, spread = lowered(1.0, 0.0)
    assert distance < 0.1 and mean < 0.1 and spread < 0.1


def test_the_distribution_loss_brings_mean_and_spread_and_no_single_post() -> None:
    distance, mean, spread = lowered(0.0, 1.0)
    assert mean < 0.1 and spread < 0.1 and distance > 1
