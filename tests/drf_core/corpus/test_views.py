"""Views of a corpus: each post's features as it came and damaged, the same damage for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.corpus.disruption import DISCARD, IMAGE_DAMAGES, SWAPPED, TEXT_DAMAGES, Disruption
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import (
    FeatureViews,
    damage_generator,
    encode_undisrupted,
    encode_views,
    pick_features,
)
from drf_core.model.input_statistics import image_statistics
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from tests.data.corpora import make_posts

SEED = 3
KINDS = {"text": ["typos", "corrupt", "typos"], "image": ["corrupt", "blur", "corrupt"]}
NOTHING = TrainingPost("aeiou", None)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def other_model(make_tiny_checkpoint: Callable[..., Path]) -> DRFModel:
    return DRFModel.from_pretrained(make_tiny_checkpoint(seed=1)).eval()


@pytest.fixture(scope="module")
def posts() -> list[TrainingPost]:
    return [TrainingPost(post["text"], post["image"], 0) for post in make_posts(8)]


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> DRFProcessor:
    return DRFProcessor.from_pretrained(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def corpus(posts: list[TrainingPost], processor: DRFProcessor) -> TrainingCorpus:
    return TrainingCorpus(posts, processor, 32)


@pytest.fixture(scope="module")
def views(model: DRFModel, corpus: TrainingCorpus) -> dict[str, FeatureViews]:
    return {m: encode_views(model, corpus, m, KINDS[m], SEED) for m in KINDS}


def directly(
    model: DRFModel, corpus: TrainingCorpus, modality: str, post: int, kind: str | None, copy: int
) -> torch.Tensor:
    """Features of one post, damaged here and encoded on its own."""
    rng = damage_generator(SEED, kind or "", copy, post)
    with torch.inference_mode():
        if modality == "image":
            pixels = corpus.pixels(post)
            assert pixels is not None
            pixels = pixels if kind is None else IMAGE_DAMAGES[kind](pixels, rng)
            whole = torch.from_numpy(pixels)[None]
            encoded = model.encode_image(corpus.processor.normalise(whole))
            return torch.cat([encoded, image_statistics(whole)], 1)[0]
        text = corpus.posts[post].text or ""
        if kind is not None:
            text = TEXT_DAMAGES[kind](text, rng, corpus.processor.mask_token)
        ids = torch.tensor([corpus.processor.token_ids(text, corpus.max_tokens)])
        return model.raw_text(ids, torch.ones_like(ids))[0]


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal but for half precision."""
    return torch.allclose(left.float(), right.float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("modality", KINDS)
def test_a_view_is_the_post_damaged_by_its_own_generator_whatever_encodes_it(
    model: DRFModel,
    other_model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    modality: str,
) -> None:
    others = encode_views(other_model, corpus, modality, KINDS[modality], SEED)
    for encoder, found in ((model, views[modality]), (other_model, others)):
        assert found.features.dtype == torch.float16
        assert found.kinds == (None, *KINDS[modality])
        for post in range(len(corpus)):
            named: list[str | None] = []
            for view, kind in enumerate(found.kinds):
                wanted = directly(encoder, corpus, modality, post, kind, named.count(kind))
                assert same(found.features[post, view], wanted), (post, kind)
                named.append(kind)
    assert not same(others.features, views[modality].features)


def test_the_source_of_chance_is_one_for_each_seed_kind_copy_and_post() -> None:
    draws = [
        damage_generator(*given).random()
        for given in ((0, "blur", 0, 0), (1, "blur", 0, 0), (0, "noise", 0, 0),
                      (0, "blur", 1, 0), (0, "blur", 0, 1))
    ]  # fmt: skip
    assert len(set(draws)) == 5
    # The same in every process, whatever Python's own hashes are: views are kept in files.
    assert draws[0] == pytest.approx(0.5544114502334421)


@pytest.mark.parametrize("modality", KINDS)
def test_two_copies_of_a_kind_are_damaged_differently(
    views: dict[str, FeatureViews], modality: str
) -> None:
    found = views[modality].features
    assert not any(same(post[1], post[3]) for post in found)


@pytest.mark.parametrize("modality", KINDS)
def test_another_seed_damages_differently_but_leaves_the_first_view(
    model: DRFModel, corpus: TrainingCorpus, views: dict[str, FeatureViews], modality: str
) -> None:
    other = encode_views(model, corpus, modality, KINDS[modality], SEED + 1).features
    found = views[modality].features
    assert same(other[:, 0], found[:, 0])
    assert not any(same(a, b) for a, b in zip(other[:, 1], found[:, 1], strict=True))


@pytest.mark.parametrize("modality", KINDS)
def test_damage_does_not_change_with_the_other_kinds_or_with_posts_that_follow(
    model: DRFModel,
    corpus: TrainingCorpus,
    posts: list[TrainingPost],
    views: dict[str, FeatureViews],
    modality: str,
) -> None:
    damages = list(TEXT_DAMAGES if modality == "text" else IMAGE_DAMAGES)
    more = [kind for kind in damages if kind not in KINDS[modality]] + KINDS[modality]
    after = [TrainingPost(post["text"], post["image"]) for post in make_posts(5, first=50)]
    longer = TrainingCorpus([*posts, *after], corpus.processor, corpus.max_tokens)
    found = encode_views(model, longer, modality, more, SEED)
    start = found.kinds.index(KINDS[modality][0])
    assert same(found.features[: len(posts), start:], views[modality].features[:, 1:])


@pytest.mark.parametrize("modality", KINDS)
def test_features_are_written_chunk_by_chunk_and_mapped(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: dict[str, FeatureViews],
    modality: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drf_core.corpus.views._POSTS_AT_ONCE", 3)
    path = tmp_path / "features"
    found = encode_views(model, corpus, modality, KINDS[modality], SEED, path)
    assert same(found.features, views[modality].features)
    assert torch.equal(found.present, views[modality].present)
    assert found.kinds == views[modality].kinds
    assert str(path) in Path("/proc/self/maps").read_text()


def test_pick_takes_the_view_of_the_kind_that_each_post_wants(
    views: dict[str, FeatureViews],
) -> None:
    index = torch.tensor([5, 0, 2])
    features, present = views["text"].pick(index, [None, "corrupt", "typos"])
    assert features.dtype == torch.float32 and present.tolist() == [True, True, True]
    assert torch.equal(features.half(), views["text"].features[index, torch.tensor([0, 2, 1])])


def test_pick_draws_among_the_copies_of_a_kind(views: dict[str, FeatureViews]) -> None:
    index = torch.zeros(200, dtype=torch.long)
    first, _ = views["text"].pick(index, ["typos"] * 200)
    drawn, _ = views["text"].pick(index, ["typos"] * 200, np.random.default_rng(0))
    again, _ = views["text"].pick(index, ["typos"] * 200, np.random.default_rng(0))
    own = views["text"].features[0].float()
    assert torch.equal(first, own[1].expand_as(first))
    of_first = (drawn == own[1]).all(1)
    assert bool((of_first | (drawn == own[3]).all(1)).all())
    assert 70 < int(of_first.sum()) < 130
    assert torch.equal(drawn, again)


def test_a_discarded_modality_is_absent(views: dict[str, FeatureViews]) -> None:
    _, present = views["image"].pick(torch.tensor([0, 1]), [DISCARD, "blur"])
    assert present.tolist() == [False, True]


@pytest.mark.parametrize("kind", ["jpeg", SWAPPED])
def test_a_kind_that_was_not_encoded_is_an_error(views: dict[str, FeatureViews], kind: str) -> None:
    with pytest.raises(KeyError, match=kind):
        views["image"].pick(torch.tensor([0]), [kind])


def swapped_with(found: FeatureViews) -> list[int]:
    """For each post whose content its swapped view shows."""
    whole, swapped = found.features[:, 0].float(), found.features[:, 1].float()
    return torch.cdist(swapped, whole).argmin(1).tolist()


@pytest.mark.parametrize("modality", KINDS)
@pytest.mark.parametrize("count", [2, 5])
def test_swapped_shows_another_posts_content_and_every_content_once(
    model: DRFModel, posts: list[TrainingPost], processor: DRFProcessor, modality: str, count: int
) -> None:
    corpus = TrainingCorpus(posts[:count], processor, 32)
    for seed in range(3):
        found = encode_views(model, corpus, modality, [SWAPPED], seed)
        partners = swapped_with(found)
        assert same(found.features[:, 1], found.features[partners, 0])
        assert sorted(partners) == list(range(count))
        assert all(partner != post for post, partner in enumerate(partners))
        assert bool(found.present.all())


@pytest.mark.parametrize("modality", KINDS)
def test_what_a_post_lacks_is_not_swapped_in(
    model: DRFModel, posts: list[TrainingPost], processor: DRFProcessor, modality: str
) -> None:
    broken = [TrainingPost(" ", b"<html>"), TrainingPost(None, None), TrainingPost("\n", b"no")]
    corpus = TrainingCorpus([posts[0], *broken, posts[1], posts[2]], processor, 32)
    for seed in range(6):
        found = encode_views(model, corpus, modality, [SWAPPED], seed)
        there = [True, False, False, False, True, True]
        assert found.present.tolist() == [[one, one] for one in there]
        partners = swapped_with(found.rows(torch.tensor([0, 4, 5])))
        assert sorted(partners) == [0, 1, 2]
        assert all(partner != post for post, partner in enumerate(partners))


def test_a_text_damaged_to_nothing_is_absent(model: DRFModel, processor: DRFProcessor) -> None:
    corpus = TrainingCorpus([NOTHING, TrainingPost("a fine day", None)], processor, 32)
    found = encode_views(model, corpus, "text", ["no_vowels"], SEED)
    assert found.present.tolist() == [[True, False], [True, True]]


def picked(
    model: DRFModel,
    posts: Sequence[TrainingPost],
    processor: DRFProcessor,
    disruptions: Sequence[Disruption],
    rng: np.random.Generator | None = None,
    text_kinds: Sequence[str] = ("no_vowels",),
) -> tuple[dict[str, FeatureViews], object]:
    corpus = TrainingCorpus(posts, processor, 32)
    views = {
        "text": encode_views(model, corpus, "text", text_kinds, SEED),
        "image": encode_views(model, corpus, "image", ["blur"], SEED),
    }
    return views, pick_features(views, torch.arange(len(posts)), disruptions, rng)


def test_features_come_in_the_order_of_the_posts_that_have_them(
    model: DRFModel, posts: list[TrainingPost], processor: DRFProcessor
) -> None:
    disruptions = [
        Disruption(),
        Disruption(text=DISCARD),
        Disruption(image=DISCARD),
        Disruption(text="no_vowels", image="blur"),
    ]
    views, found = picked(model, posts[:4], processor, disruptions)
    assert found.present.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    assert found.damaged.tolist() == [[False, False]] * 3 + [[True, True]]
    text, image = views["text"].features.float(), views["image"].features.float()
    assert torch.equal(found.text, torch.stack([text[0, 0], text[2, 0], text[3, 1]]))
    assert torch.equal(found.image, torch.stack([image[0, 0], image[1, 0], image[3, 1]]))


def test_no_features_where_no_post_has_the_modality(
    model: DRFModel, posts: list[TrainingPost], processor: DRFProcessor
) -> None:
    _, found = picked(model, posts[:2], processor, [Disruption(image=DISCARD)] * 2)
    assert found.image is None and found.text is not None


@pytest.mark.parametrize(
    "disruption",
    [Disruption(text=DISCARD), Disruption(text="no_vowels"), Disruption(DISCARD, DISCARD)],
)
def test_a_post_left_with_nothing_stays_as_it_came(
    model: DRFModel,
    posts: list[TrainingPost],
    processor: DRFProcessor,
    disruption: Disruption,
) -> None:
    views, found = picked(model, [posts[0], NOTHING], processor, [Disruption(), disruption])
    assert found.present.tolist() == [[True, True], [True, False]]
    assert not bool(found.damaged.any())
    assert torch.equal(found.text[1], views["text"].features[1, 0].float())


def test_a_post_is_not_left_with_nothing_by_one_of_several_copies(
    model: DRFModel, processor: DRFProcessor
) -> None:
    fragile = TrainingPost("k", None)
    kinds = ["typos"] * 40
    disruptions = [Disruption(text="typos")] * 30
    corpus = TrainingCorpus([fragile] * 30, processor, 32)
    kept = encode_views(model, corpus, "text", kinds, SEED).present[:, 1:]
    assert bool(kept.any(1).all()) and not bool(kept.all())  # some copies lose the one letter
    _, found = picked(
        model, corpus.posts, processor, disruptions, np.random.default_rng(0), text_kinds=kinds
    )
    assert bool(found.present[:, 0].all()) and len(found.text) == 30


def test_undisrupted_views_are_the_first_views(
    model: DRFModel, corpus: TrainingCorpus, views: dict[str, FeatureViews]
) -> None:
    found = encode_undisrupted(model, corpus)
    for modality, one in found.items():
        assert one.kinds == (None,)
        assert same(one.features[:, 0], views[modality].features[:, 0])


def test_of_no_posts_nothing_is_picked() -> None:
    none = torch.zeros(4, 1, 3)
    views = {m: FeatureViews(none.half(), none[..., 0].bool(), (None,)) for m in KINDS}
    picked = pick_features(views, torch.zeros(0, dtype=torch.long), [])
    assert picked.text is None and picked.image is None
    assert picked.present.shape == picked.damaged.shape == (0, 2)
