"""A step of training learns from every term of the loss, and an epoch can be done in two goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, encode_views
from drf_core.model.head import DRFOutput
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.model.recovery import distribution_loss, sample_loss
from drf_core.training.trainer import Trainer, TrainingSettings
from tests.data.corpora import make_posts

KINDS = {"text": ["no_vowels"], "image": ["blur"]}
WEIGHTS = ("unimodal", "sample", "distribution", "distillation")


@pytest.fixture(scope="module")
def corpus(tiny_checkpoint: Path) -> TrainingCorpus:
    posts = [
        TrainingPost(post["text"], post["image"], number % 3)
        for number, post in enumerate(make_posts(32))
    ]
    return TrainingCorpus(posts, DRFProcessor.from_pretrained(str(tiny_checkpoint)), 32)


@pytest.fixture(scope="module")
def views(tiny_checkpoint: Path, corpus: TrainingCorpus) -> dict[str, FeatureViews]:
    model = DRFModel.from_pretrained(tiny_checkpoint)
    return {m: encode_views(model, corpus, m, ["corrupt", *KINDS[m]], 0) for m in KINDS}


@pytest.fixture
def trainer(
    tiny_checkpoint: Path, corpus: TrainingCorpus, views: dict[str, FeatureViews]
) -> Callable[..., Trainer]:
    """A training of frozen encoders; weights: of the terms of the loss, 0 for all others."""

    def make(
        posts: TrainingCorpus = corpus, teacher: torch.Tensor | None = None, **changes: float
    ) -> Trainer:
        settings = TrainingSettings(
            **{
                "batch_size": 16,
                "learning_rate": 1e-2,
                "train_text_encoder": False,
                "text_kinds": KINDS["text"],
                "image_kinds": KINDS["image"],
                **{f"{name}_weight": 0.0 for name in WEIGHTS},
                **changes,
            }
        )
        model = DRFModel.from_pretrained(tiny_checkpoint)
        return Trainer(model, posts, posts, settings, views, views, teacher)

    return make


@pytest.fixture
def unlabelled(corpus: TrainingCorpus) -> TrainingCorpus:
    """Posts that have no sentiment to learn."""
    posts = [TrainingPost(post.text, post.image) for post in corpus.posts]
    return TrainingCorpus(posts, corpus.processor, corpus.max_tokens)


def learned(trainer: Trainer) -> torch.Tensor:
    trainer.train_epoch()
    return torch.cat([p.detach().flatten() for p in trainer._learned])


def test_every_term_of_the_loss_is_learned_from(trainer: Callable[..., Trainer]) -> None:
    without = learned(trainer())
    assert torch.equal(learned(trainer()), without)
    for name in WEIGHTS:
        assert not torch.equal(learned(trainer(**{f"{name}_weight": 1.0})), without), name


def look(trainer: Trainer, views: dict[str, FeatureViews]) -> DRFOutput:
    text, image = (views[m].features[:, 0].float() for m in KINDS)
    with torch.no_grad():
        whole = torch.ones(len(text), 2, dtype=torch.bool)
        return trainer.model.eval().forward_features(text, image, whole, torch.arange(len(text)))


@pytest.mark.parametrize(
    ("name", "loss"), [("sample", sample_loss), ("distribution", distribution_loss)]
)
def test_each_supervision_of_recovery_is_lowered_by_training_on_it(
    trainer: Callable[..., Trainer],
    unlabelled: TrainingCorpus,
    views: dict[str, FeatureViews],
    name: str,
    loss: Callable[..., torch.Tensor],
) -> None:
    changes = {f"{name}_weight": 1.0, "learning_rate": 3e-2, "batch_size": 8}
    training = trainer(unlabelled, disrupted_share=0.0, **changes)

    def off() -> float:
        output = look(training, views)
        return sum(float(loss(output.recovered[:, n], output.hidden[:, n])) for n in range(2))

    before = off()
    for _ in range(4):
        training.train_epoch()
    assert off() < 0.95 * before


def test_a_student_comes_to_say_what_its_teacher_says(
    trainer: Callable[..., Trainer], unlabelled: TrainingCorpus, views: dict[str, FeatureViews]
) -> None:
    teacher = torch.tensor([2.0, 0.0, -2.0]).repeat(len(unlabelled), 1)
    training = trainer(unlabelled, teacher, distillation_weight=1.0)
    before = look(training, views).logits.softmax(-1).mean(0)
    for _ in range(4):
        training.train_epoch()
    after = look(training, views).logits.softmax(-1).mean(0)
    assert float(after[0]) > float(before[0]) + 0.1
    assert float(after[2]) < float(before[2]) - 0.1


def test_without_a_larger_teacher_undisrupted_posts_have_nothing_to_learn_from_one(
    trainer: Callable[..., Trainer], unlabelled: TrainingCorpus
) -> None:
    start = trainer(unlabelled, disrupted_share=0.0)
    before = torch.cat([p.detach().flatten() for p in start._learned])
    quiet = learned(start)
    taught = learned(trainer(unlabelled, disrupted_share=0.0, distillation_weight=1.0))
    assert torch.equal(taught, quiet)
    assert not torch.equal(
        learned(trainer(unlabelled, disrupted_share=1.0, distillation_weight=1.0)), before
    )


def test_each_corpus_keeps_its_own_shares_of_labels_out_of_the_logits(
    trainer: Callable[..., Trainer], corpus: TrainingCorpus
) -> None:
    posts = [
        TrainingPost(post.text, post.image, 2 if number < 20 or number % 2 else 0, number // 20)
        for number, post in enumerate(corpus.posts)
    ]
    several = TrainingCorpus(posts, corpus.processor, corpus.max_tokens)
    training = trainer(several)
    # Twenty positives; six positives and six negatives: each with one post more of every label.
    assert torch.allclose(
        training.priors, torch.tensor([[1 / 23, 1 / 23, 21 / 23], [7 / 15, 1 / 15, 7 / 15]])
    )


def test_posts_without_a_label_have_no_part_in_the_shares(unlabelled: TrainingCorpus) -> None:
    assert torch.allclose(unlabelled.priors(3), torch.full((1, 3), 1 / 3))


def test_a_training_assumes_no_prior_and_its_result_the_one_that_is_wanted(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drf_core.training.trainer.fit_confidence", lambda *given: None)
    wanted = {"negative": 0.1, "neutral": 0.2, "positive": 0.7}
    training = trainer(epochs=1)
    training._assumed = wanted
    assert training.model.config.prior is None and training.averaged.config.prior is None
    training.finish()
    assert training.model.config.prior == wanted


def test_a_training_in_two_goes_is_the_training_in_one(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    weights = {f"{name}_weight": 0.5 for name in WEIGHTS}
    whole = trainer(**weights)
    whole.train_epoch()
    whole.save(str(tmp_path / "state"))
    whole.train_epoch()
    again = trainer(**weights)
    again.load(str(tmp_path / "state"))
    again.train_epoch()
    for one, other in ((whole.model, again.model), (whole.averaged, again.averaged)):
        expected = one.state_dict()
        for name, value in other.state_dict().items():
            assert torch.equal(value, expected[name]), name
    for one, other in zip(whole.model.queues(), again.model.queues(), strict=True):
        assert np.array_equal(one.post.numpy(), other.post.numpy())
