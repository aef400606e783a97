"""Batches of disrupted posts: from views or encoded on the spot, the same features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.disruption import DISCARD, Disruption
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, PickedFeatures, encode_views
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.batches import batches_of, encode_batch
from tests.data.corpora import make_posts

BOTH, TEXT, IMAGE, NONE = ["text", "image"], ["text"], ["image"], []
# An image that is there, but does not decode.
UNDECODABLE = TrainingPost("aeiou", b"<html>")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def corpus(tiny_checkpoint: Path) -> TrainingCorpus:
    posts = [TrainingPost(post["text"], post["image"], 0) for post in make_posts(6)]
    posts[2] = TrainingPost(posts[2].text, None)
    posts[4] = TrainingPost(" ", posts[4].image)
    posts += [UNDECODABLE, TrainingPost("aeiou", None)]
    return TrainingCorpus(posts, DRFProcessor.from_pretrained(str(tiny_checkpoint)), 32)


@pytest.fixture(scope="module")
def views(model: DRFModel, corpus: TrainingCorpus) -> dict[str, FeatureViews]:
    kinds = {"text": ["no_vowels"], "image": ["blur"]}
    return {m: encode_views(model, corpus, m, kinds[m], 0) for m in kinds}


def encode(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    frozen: Sequence[str],
    disruptions: Sequence[Disruption],
    index: Sequence[int] | None = None,
) -> PickedFeatures:
    rows = torch.tensor(range(len(corpus)) if index is None else index)
    given = {m: views[m] for m in frozen}
    with ThreadPoolExecutor(2) as pool:
        return encode_batch(model, corpus, given, rows, disruptions, np.random.default_rng(0), pool)


@pytest.mark.parametrize("frozen", [BOTH, TEXT, IMAGE])
def test_a_batch_from_views_is_the_batch_encoded_on_the_spot(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    frozen: list[str],
) -> None:
    index = [5, 2, 0, 4, 6, 7, 1]
    whole = [Disruption()] * len(index)
    with torch.no_grad():
        live = encode(model, corpus, views, NONE, whole, index)
        kept = encode(model, corpus, views, frozen, whole, index)
    lacking = {2: [True, False], 4: [False, True], 6: [True, False], 7: [True, False]}
    assert live.present.tolist() == [lacking.get(post, [True, True]) for post in index]
    assert torch.equal(live.present, kept.present)
    assert not bool(live.damaged.any()) and not bool(kept.damaged.any())
    for m in BOTH:
        one, other = getattr(live, m), getattr(kept, m)
        assert len(one) == int(live.present[:, BOTH.index(m)].sum())
        assert torch.allclose(one, other, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(live.text[0], live.text[1], atol=1e-2)


@pytest.mark.parametrize("frozen", [NONE, TEXT, IMAGE, BOTH])
def test_every_way_to_make_a_batch_damages_and_discards_alike(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    frozen: list[str],
) -> None:
    index = [0, 1, 3, 5]
    disruptions = [
        Disruption(text="no_vowels"),
        Disruption(image="blur"),
        Disruption(text=DISCARD),
        Disruption(image=DISCARD),
    ]
    with torch.no_grad():
        found = encode(model, corpus, views, frozen, disruptions, index)
    assert found.present.tolist() == [[True, True], [True, True], [False, True], [True, False]]
    assert found.damaged.tolist() == [[True, False], [False, True], [False, False], [False, False]]
    # Removing vowels draws nothing at random, so that features can be compared.
    text, image = (views[m].features.float() for m in BOTH)
    assert torch.allclose(
        found.text, torch.stack([text[0, 1], text[1, 0], text[5, 0]]), rtol=2e-3, atol=2e-3
    )
    assert torch.allclose(found.image[0], image[0, 0], rtol=2e-3, atol=2e-3)
    assert not torch.allclose(found.image[1], image[1, 0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("frozen", [NONE, TEXT, IMAGE, BOTH])
@pytest.mark.parametrize(
    ("post", "disruption"),
    [
        (2, Disruption(text=DISCARD)),  # has no image
        (4, Disruption(image=DISCARD)),  # has no text
        (7, Disruption(text="no_vowels")),  # no image, and no consonant
        (6, Disruption(text=DISCARD)),  # its image turns out not to decode
        (6, Disruption(text="no_vowels")),
        (0, Disruption(text=DISCARD, image=DISCARD)),
    ],
)
def test_a_post_that_would_be_left_with_nothing_stays_as_it_came(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    frozen: list[str],
    post: int,
    disruption: Disruption,
) -> None:
    with torch.no_grad():
        found = encode(model, corpus, views, frozen, [disruption], [post])
        whole = encode(model, corpus, views, frozen, [Disruption()], [post])
    assert torch.equal(found.present, whole.present) and bool(found.present.any())
    assert not bool(found.damaged.any())
    for m in BOTH:
        one, other = getattr(found, m), getattr(whole, m)
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("frozen", [NONE, TEXT, IMAGE, BOTH])
def test_what_damage_leaves_nothing_of_is_absent_and_not_damaged(
    model: DRFModel, corpus: TrainingCorpus, frozen: list[str]
) -> None:
    vowels = TrainingPost("aeiou", corpus.posts[0].image)
    one = TrainingCorpus([vowels], corpus.processor, corpus.max_tokens)
    kinds = {"text": ["no_vowels"], "image": ["blur"]}
    views = {m: encode_views(model, one, m, kinds[m], 0) for m in frozen}
    with torch.no_grad():
        found = encode(model, one, views, frozen, [Disruption(text="no_vowels")])
    assert found.present.tolist() == [[False, True]] and found.text is None
    assert not bool(found.damaged.any())


@pytest.mark.parametrize("frozen", [NONE, TEXT, IMAGE])
def test_a_gradient_reaches_only_the_encoder_that_learns(
    tiny_checkpoint: Path,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    frozen: list[str],
) -> None:
    model = DRFModel.from_pretrained(tiny_checkpoint).eval()
    encoders = {"text": model.text_encoder, "image": model.image_encoder}
    for m, encoder in encoders.items():
        encoder.requires_grad_(m not in frozen)
    batch = encode(model, corpus, views, frozen, [Disruption()] * len(corpus))
    assert batch.text is not None and batch.image is not None
    assert batch.text.requires_grad == ("text" not in frozen)
    assert batch.image.requires_grad == ("image" not in frozen)
    output = model.forward_features(batch.text, batch.image, batch.present)
    output.logits.square().sum().backward()
    for m, encoder in encoders.items():
        reached = any(
            p.grad is not None and bool(p.grad.abs().sum() > 0) for p in encoder.parameters()
        )
        assert reached == (m not in frozen), m


@pytest.mark.parametrize("lengths", [None, np.random.default_rng(0).integers(1, 280, 1003)])
def test_batches_cover_every_post_once_in_an_order_that_the_seed_decides(
    lengths: np.ndarray | None,
) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        return batches_of(1003, 16, np.random.default_rng(seed), lengths)

    batches = drawn(0)
    assert sorted(torch.cat(batches).tolist()) == list(range(1003))
    assert sorted(map(len, batches)) == [1003 % 16, *[16] * 62]
    assert torch.equal(torch.cat(batches), torch.cat(drawn(0)))
    assert not torch.equal(torch.cat(batches), torch.cat(drawn(1)))


def test_texts_about_equally_long_share_a_batch_and_batches_are_shuffled() -> None:
    lengths = np.random.default_rng(0).integers(1, 280, 1600)
    batches = batches_of(1600, 16, np.random.default_rng(0), lengths)
    spreads = [np.ptp(lengths[batch.numpy()]) for batch in batches]
    assert np.mean(spreads) < 10
    unsorted = batches_of(1600, 16, np.random.default_rng(0), None)
    assert np.mean([np.ptp(lengths[batch.numpy()]) for batch in unsorted]) > 200
    longest = np.array([lengths[batch.numpy()].max() for batch in batches])
    # Sorted batches in sorted order would show the model short texts first.
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4
