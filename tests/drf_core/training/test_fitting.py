"""Queues, references and temperature are fitted to posts, not learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.disruption import TRAINED_IMAGE_KINDS, TRAINED_TEXT_KINDS
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, PickedFeatures, encode_views
from drf_core.evaluation.metrics import expected_calibration_error
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import clean_cell, modality_fixed_cells
from drf_core.model.head import DAMAGED_PER_UNDISRUPTED
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.fitting import (
    TrainingError,
    fill_queues,
    fit_temperature,
    push_to_queues,
    set_reference,
)
from drf_core.training.trainer import Trainer, TrainingSettings
from tests.data.corpora import make_posts

KINDS = {"text": list(TRAINED_TEXT_KINDS), "image": list(TRAINED_IMAGE_KINDS)}


@pytest.fixture
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> DRFProcessor:
    return DRFProcessor.from_pretrained(str(tiny_checkpoint))


def corpus_of(processor: DRFProcessor, count: int, lacking: int = 0) -> TrainingCorpus:
    """Posts of which the first lack a text, an image, or an image that decodes, in turn."""
    posts = [TrainingPost(post["text"], post["image"], 0) for post in make_posts(count)]
    for number in range(lacking):
        text, image = posts[number].text, posts[number].image
        posts[number] = [TrainingPost(None, image), TrainingPost(text, None),
                         TrainingPost(text, b"<html>")][number % 3]  # fmt: skip
    return TrainingCorpus(posts, processor, 32)


def test_queues_are_cleared_and_filled_with_the_corpus_as_it_is_encoded_now(
    model: DRFModel, processor: DRFProcessor
) -> None:
    corpus = corpus_of(processor, 20, lacking=6)
    assert model.undisrupted_queue.filled == 64  # of another time
    fill_queues(model, corpus, {}, KINDS, np.random.default_rng(0))
    queue = model.undisrupted_queue
    assert sorted(queue.post[: queue.filled].tolist()) == list(range(6, 20))
    whole = {m: encode_views(model, corpus, m, [], 0).features[:, 0].float() for m in KINDS}
    for m in KINDS:
        own = whole[m][queue.post[: queue.filled]]
        assert torch.allclose(queue.rows(m), own, rtol=2e-3, atol=2e-3)
        damaged = model.disrupted_queues[m]
        # The texts beside images that do not decode can be damaged, too.
        alone = [2, 5] if m == "text" else []
        times = DAMAGED_PER_UNDISRUPTED[m]
        assert sorted(damaged.post[: damaged.filled].tolist()) == sorted(
            [*alone, *range(6, 20)] * times
        )
        own = whole[m][damaged.post[: damaged.filled]]
        assert float((damaged.rows(m) - own).abs().amax(1).median()) > 0.01


def test_no_more_posts_are_encoded_than_the_queue_holds_and_chance_chooses_them(
    model: DRFModel, processor: DRFProcessor
) -> None:
    corpus = corpus_of(processor, 90)
    chosen = []
    for seed in (0, 0, 1):
        fill_queues(model, corpus, {}, KINDS, np.random.default_rng(seed))
        assert int(model.undisrupted_queue.pushed) == 64
        chosen.append(set(model.undisrupted_queue.post.tolist()))
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 64


@pytest.mark.parametrize("undecodable", [False, True])
def test_posts_without_pairs_are_refused(
    model: DRFModel, processor: DRFProcessor, undecodable: bool
) -> None:
    image = b"<html>" if undecodable else None
    whole = corpus_of(processor, 1).posts[0]
    corpus = TrainingCorpus([whole, *[TrainingPost("fine", image)] * 5], processor, 32)
    with pytest.raises(TrainingError, match=r"--posts: .* both a text and an image"):
        fill_queues(model, corpus, {}, KINDS, np.random.default_rng(0))


def test_only_undisrupted_pairs_are_pushed_to_the_paired_queue(model: DRFModel) -> None:
    for queue in (model.undisrupted_queue, *model.disrupted_queues.values()):
        queue.clear()
    batch = PickedFeatures(
        text=torch.arange(3.0)[:, None].expand(3, 32),
        image=10 + torch.arange(3.0)[:, None].expand(3, 32),
        present=torch.tensor([[True, True], [True, False], [False, True], [True, True]]),
        damaged=torch.tensor([[False, False], [False, False], [False, True], [True, False]]),
    )
    push_to_queues(model, batch, torch.tensor([7, 8, 9, 11]))
    queue = model.undisrupted_queue
    assert queue.post[: queue.filled].tolist() == [7]
    assert (queue.rows("text")[:, 0].tolist(), queue.rows("image")[:, 0].tolist()) == ([0], [10])
    damaged = {m: model.disrupted_queues[m] for m in KINDS}
    assert {m: one.post[: one.filled].tolist() for m, one in damaged.items()} == {
        "text": [11],
        "image": [9],
    }
    assert damaged["text"].rows("text")[:, 0].tolist() == [2]
    assert damaged["image"].rows("image")[:, 0].tolist() == [11]


def views_of(text: torch.Tensor, image: torch.Tensor) -> dict[str, FeatureViews]:
    """Views of undisrupted and corrupted posts; a row of nan is absent."""
    found = {}
    for m, features in (("text", text), ("image", image)):
        there = ~features.isnan().any(1)
        rows = torch.stack([features.nan_to_num(), 3 * features.nan_to_num()], 1)
        present = there[:, None].expand(-1, 2).contiguous()
        found[m] = FeatureViews(rows.half(), present, (None, "corrupt"))
    return found


def clean_probabilities(model: DRFModel, views: dict[str, FeatureViews]) -> np.ndarray:
    posts = len(views["text"].present)
    return outcomes(model, views, [clean_cell(posts)])[0].probabilities


def test_qualities_are_ranked_among_the_reference_posts_as_they_came(model: DRFModel) -> None:
    generator = torch.Generator().manual_seed(1)
    text, image = (1.5 * torch.randn(400, 32, generator=generator) for _ in range(2))
    text[:3], image[3:6] = torch.nan, torch.nan
    views = views_of(text, image)

    def quality() -> np.ndarray:
        return outcomes(model, views, [clean_cell(400)])[0].quality

    before = quality()[6:]
    set_reference(model, views)
    after = quality()[6:]
    assert (abs(before.mean(0) - 0.5) > 0.1).all()
    assert np.allclose(after.mean(0), 0.5, atol=0.02)
    assert ((after < 0.05).mean(0) > 0.03).all() and ((after < 0.05).mean(0) < 0.07).all()


def test_a_reference_without_pairs_is_an_error(model: DRFModel) -> None:
    text, image = torch.zeros(4, 32), torch.zeros(4, 32)
    text[:2], image[2:] = torch.nan, torch.nan
    with pytest.raises(TrainingError, match=r"--validation: .* both a text and an image"):
        set_reference(model, views_of(text, image))
    with pytest.raises(TrainingError, match=r"--reference: .* both a text and an image"):
        set_reference(model, views_of(text, image), "--reference")


def test_temperature_brings_confidence_to_accuracy_and_changes_no_label(model: DRFModel) -> None:
    generator = torch.Generator().manual_seed(2)
    views = views_of(*(torch.randn(600, 32, generator=generator) for _ in range(2)))
    while clean_probabilities(model, views).max(1).mean() < 0.85:
        with torch.no_grad():
            for head in model.unimodal_heads.values():
                head[-1].weight.mul_(1.5)
    truth = clean_probabilities(model, views).argmax(1)
    # Right in six posts of ten, and very sure of all of them.
    wrong = np.random.default_rng(0).random(600) < 0.4
    labels = torch.from_numpy(np.where(wrong, (truth + 1) % 3, truth))
    labels[:50] = -1
    fixed = modality_fixed_cells(600)
    before = [one.probabilities for one in outcomes(model, views, fixed)]
    model.temperature.fill_(7.0)  # of an earlier fit: counts for nothing
    fit_temperature(model, views, labels)
    assert float(model.temperature) > 1.2
    known = labels.numpy() >= 0

    def error(probabilities: np.ndarray) -> float:
        return expected_calibration_error(labels.numpy()[known], probabilities[known])

    after = [one.probabilities for one in outcomes(model, views, fixed)]
    for earlier, later in zip(before, after, strict=True):
        assert (later.argmax(1) == earlier.argmax(1)).all()
    assert error(before[0]) > 0.15
    assert error(after[0]) < 0.6 * error(before[0])


def test_a_temperature_makes_a_timid_model_surer(model: DRFModel) -> None:
    generator = torch.Generator().manual_seed(2)
    views = views_of(*(torch.randn(200, 32, generator=generator) for _ in range(2)))
    with torch.no_grad():
        for head in model.unimodal_heads.values():
            head[-1].weight.mul_(0.3)
    truth = clean_probabilities(model, views).argmax(1)
    fit_temperature(model, views, torch.from_numpy(truth))
    assert float(model.temperature) == 0.5


def test_a_training_that_disrupts_nothing_met_no_damage(
    model: DRFModel, processor: DRFProcessor
) -> None:
    corpus = corpus_of(processor, 12)
    for share, kinds in ((0.5, KINDS), (0.0, {"text": [], "image": []})):
        Trainer(model, corpus, corpus, TrainingSettings(disrupted_share=share))
        assert model.config.trained_kinds == kinds


@pytest.mark.parametrize("learns", [True, False])
def test_what_a_trained_model_recovers_from_is_its_queue_as_it_projects_now(
    model: DRFModel, processor: DRFProcessor, learns: bool
) -> None:
    corpus = corpus_of(processor, 24)
    settings = TrainingSettings(epochs=2, batch_size=4, train_text_encoder=learns)
    trainer = Trainer(model, corpus, corpus, settings)
    trainer.run(None, lambda line: None)
    for trained in (model, trainer.averaged):
        kept = {m: rows.clone() for m, rows in trained.memory().items()}
        trained.forget_memory()
        for m, rows in trained.memory().items():
            assert torch.allclose(rows, kept[m], atol=1e-6)
