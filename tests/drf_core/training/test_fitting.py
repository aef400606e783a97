"""Queues, references and temperature are fitted to posts, not learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.disruption import TRAINED_IMAGE_KINDS, TRAINED_TEXT_KINDS
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, PickedFeatures, encode_views
from drf_core.evaluation.metrics import classification
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import clean_cell, modality_fixed_cells
from drf_core.model.designs import DESIGNS
from drf_core.model.head import DAMAGED_PER_UNDISRUPTED
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.fitting import (
    fill_queues,
    fit_confidence,
    fit_kinds,
    push_to_queues,
    set_reference,
)
from drf_core.training.settings import TrainingError, TrainingSettings
from drf_core.training.trainer import Trainer
from tests.data.corpora import make_posts
from tests.support.features import drawn_features

UNIFORM = torch.full((3,), 1 / 3)
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
    assert model.paired_queue.filled == 64  # of another time
    fill_queues(model, corpus, {}, KINDS, np.random.default_rng(0))
    queue = model.paired_queue
    assert sorted(queue.post[: queue.filled].tolist()) == list(range(6, 20))
    whole = {m: encode_views(model, corpus, m, [], 0).features[:, 0].float() for m in KINDS}
    for m in KINDS:
        own = whole[m][queue.post[: queue.filled]]
        assert torch.allclose(queue.rows(m), own, rtol=2e-3, atol=2e-3)
        # What stands alone is what ordinary texts and images are like, too: the texts of posts
        # without an image and beside images that do not decode, the images without a text.
        alone = [1, 2, 4, 5] if m == "text" else [0, 3]
        undisrupted, damaged = model.undisrupted_queues[m], model.disrupted_queues[m]
        # Once each, whatever else they are damaged by.
        posts = undisrupted.post[: undisrupted.filled].tolist()
        assert sorted(posts) == sorted([*alone, *range(6, 20)])
        own = whole[m][undisrupted.post[: undisrupted.filled]]
        assert torch.allclose(undisrupted.rows(m), own, rtol=2e-3, atol=2e-3)
        pairs = [*range(6, 20), *([2, 5] if m == "text" else [])]
        singles = [1, 4] if m == "text" else [0, 3]
        assert sorted(damaged.post[: damaged.filled].tolist()) == sorted(
            [*pairs * DAMAGED_PER_UNDISRUPTED[m], *singles]
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
        assert int(model.paired_queue.pushed) == 64
        chosen.append(set(model.paired_queue.post.tolist()))
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
    for queue in model.queues():
        queue.clear()
    sizes = model.config.raw_sizes
    batch = PickedFeatures(
        text=torch.arange(3.0)[:, None].expand(3, sizes["text"]),
        image=10 + torch.arange(3.0)[:, None].expand(3, sizes["image"]),
        present=torch.tensor([[True, True], [True, False], [False, True], [True, True]]),
        damaged=torch.tensor([[False, False], [False, False], [False, True], [True, False]]),
    )
    push_to_queues(model, batch, torch.tensor([7, 8, 9, 11]))
    queue = model.paired_queue
    assert queue.post[: queue.filled].tolist() == [7]
    assert (queue.rows("text")[:, 0].tolist(), queue.rows("image")[:, 0].tolist()) == ([0], [10])
    ordinary = {m: model.undisrupted_queues[m] for m in KINDS}
    assert {m: one.post[: one.filled].tolist() for m, one in ordinary.items()} == {
        "text": [7, 8],
        "image": [7, 11],
    }
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
    text, image = (drawn_features(model, m, 400, seed=1, spread=0.6) for m in KINDS)
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
    text, image = (drawn_features(model, m, 4) for m in KINDS)
    text[:2], image[2:] = torch.nan, torch.nan
    with pytest.raises(TrainingError, match=r"--validation: .* both a text and an image"):
        set_reference(model, views_of(text, image))
    with pytest.raises(TrainingError, match=r"--reference: .* both a text and an image"):
        set_reference(model, views_of(text, image), "--reference")


def make_sure(model: DRFModel, times: float) -> None:
    """Let the experts say the same, but louder."""
    with torch.no_grad():
        for head in model.unimodal_heads.values():
            head[-1].weight.mul_(times)
            head[-1].bias.mul_(times)


def without_trust(model: DRFModel) -> None:
    """Of the confidence leave only the temperature to be fitted."""
    model.design = DESIGNS["drf_no_quality_weights"]


def test_temperature_brings_confidence_to_accuracy_and_changes_no_label(model: DRFModel) -> None:
    without_trust(model)
    views = views_of(*(drawn_features(model, m, 600, seed=2) for m in KINDS))
    make_sure(model, 30.0)
    truth = clean_probabilities(model, views).argmax(1)
    # Right in six posts of ten, and very sure of all of them.
    wrong = np.random.default_rng(0).random(600) < 0.4
    labels = torch.from_numpy(np.where(wrong, (truth + 1) % 3, truth))
    labels[:50] = -1
    fixed = modality_fixed_cells(600)
    before = [one.probabilities for one in outcomes(model, views, fixed)]
    assert before[0].max(1).mean() > 0.85
    model.temperature.fill_(7.0)  # of an earlier fit: counts for nothing
    fit_confidence(model, views, labels, UNIFORM)
    assert bool((model.temperature > 1.2).all())
    known = labels.numpy() >= 0

    def error(probabilities: np.ndarray) -> float:
        return classification(labels.numpy()[known], probabilities[known])["calibration_error"]

    after = [one.probabilities for one in outcomes(model, views, fixed)]
    for earlier, later in zip(before, after, strict=True):
        assert (later.argmax(1) == earlier.argmax(1)).all()
    assert error(before[0]) > 0.15
    assert error(after[0]) < 0.6 * error(before[0])


def test_a_temperature_makes_a_timid_model_surer(model: DRFModel) -> None:
    without_trust(model)
    views = views_of(*(drawn_features(model, m, 200, seed=2) for m in KINDS))
    make_sure(model, 0.3)
    truth = clean_probabilities(model, views).argmax(1)
    fit_confidence(model, views, torch.from_numpy(truth), UNIFORM)
    assert model.temperature.tolist() == [0.5] * 3


def test_the_labels_shares_among_validation_posts_are_no_matter_of_confidence(
    model: DRFModel,
) -> None:
    without_trust(model)
    make_sure(model, 5.0)
    views = views_of(*(drawn_features(model, m, 2000, seed=2) for m in KINDS))
    shares = torch.tensor([0.1, 0.1, 0.8])
    model.temperature.fill_(1.0)
    said = torch.from_numpy(clean_probabilities(model, views)) * shares
    # Labels as a calibrated model has them among posts of these shares.
    labels = torch.multinomial(said, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    views = {m: FeatureViews(one.features, one.present, (None, "corrupt"))
             for m, one in views.items()}  # fmt: skip
    for one in views.values():
        one.features[:, 1] = one.features[:, 0]
    fit_confidence(model, views, labels, shares)
    known_shares = model.temperature.clone()
    fit_confidence(model, views, labels, UNIFORM)
    assert bool((abs(known_shares - 1) < abs(model.temperature - 1)).all())


def test_what_misleads_where_quality_is_low_is_trusted_less_there(model: DRFModel) -> None:
    make_sure(model, 30.0)
    set_reference(model, views_of(*(drawn_features(model, m, 60, seed=3) for m in KINDS)))
    views = views_of(*(drawn_features(model, m, 300, seed=2, spread=0.5) for m in KINDS))
    whole = torch.ones(300, 2, dtype=torch.bool)
    text, image = (views[m].features[:, 0].float() for m in KINDS)
    with torch.no_grad():
        said = model.forward_features(text, image, whole).unimodal_logits[:, 0]
        # Or one label would be said of nearly all.
        model.unimodal_heads["text"][-1].bias -= said.mean(0)
        said = said - said.mean(0)
    # What texts say is so; damaged ones and images say anything, and just as surely.
    views["text"].features[:, 1] = drawn_features(model, "text", 300, seed=9, spread=20).half()
    labels = said.argmax(1)
    fit_confidence(model, views, labels, UNIFORM)
    text_trust, image_trust = model.trust
    damaged = outcomes(model, views, modality_fixed_cells(300)[:2])[1]
    # A rank among 60 posts is .016: a few of 300 lie some above the lowest.
    assert (damaged.quality[:, 0] < 0.05).mean() > 0.9 and damaged.quality[:, 0].max() < 0.2
    assert float(text_trust[1]) < 0.5 < float(text_trust[3])
    assert float(image_trust[3]) < float(text_trust[3])
    assert bool((model.trust.diff() >= -1e-6).all())


def test_kinds_of_damage_are_named_after_what_posts_look_like_in_them(
    model: DRFModel, processor: DRFProcessor
) -> None:
    kinds = {"text": ["typos"], "image": ["noise", "flat"]}
    model.train_on_kinds(kinds)
    corpus, others = corpus_of(processor, 40, lacking=3), corpus_of(processor, 24)
    fill_queues(model, corpus, {}, kinds, np.random.default_rng(0))
    model.fit_distributions()
    fit_kinds(model, corpus, {}, kinds, np.random.default_rng(0))
    seen = encode_views(model, others, "image", kinds["image"], 0).features.float()
    for number in range(2):
        named = model.quality["image"].nearest_kind(model.standardise["image"](seen[:, 1 + number]))
        known = named[named >= 0]
        assert len(known) > 8 and (known == number).float().mean() > 0.75
    assert [len(model.quality[m].kind_means) for m in KINDS] == [1, 2]


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
    kinds = {"text_kinds": ["typos"], "image_kinds": ["blur"]}
    settings = TrainingSettings(epochs=2, batch_size=4, train_text_encoder=learns, **kinds)
    trainer = Trainer(model, corpus, corpus, settings)
    trainer.run(None, lambda line: None)
    for trained in (model, trainer.averaged):
        kept = {m: rows.clone() for m, rows in trained.memory().items()}
        trained.forget_memory()
        for m, rows in trained.memory().items():
            assert torch.allclose(rows, kept[m], atol=1e-6)
