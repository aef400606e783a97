"""The cells of an evaluation: the paper's two settings and damage beyond them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drf_core.annotator import Annotator
from drf_core.corpus.disruption import DISCARD
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, encode_views
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import (
    CLEAN,
    Cell,
    cells,
    groups,
    kinds_to_encode,
    met_in_training,
)
from drf_core.model.designs import DESIGNS
from schemas.annotations import MODALITIES

TRAINED = {"text": ["corrupt", "typos"], "image": ["corrupt", "blur", "noise"]}


def cell(name: str, count: int = 40, seed: int = 0) -> Cell:
    [found] = [cell for cell in cells(count, seed) if cell.name == name]
    return found


def disrupted(cell: Cell) -> list[tuple[int, str, str]]:
    return [
        (post, m, kind)
        for post, disruption in enumerate(cell.disruptions)
        for m, kind in zip(MODALITIES, disruption.kinds(), strict=True)
        if kind is not None
    ]


def test_there_are_22_cells_of_the_published_protocol_and_ten_beyond_it() -> None:
    found = cells(10)
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names) == 32
    assert names[0] == CLEAN and not disrupted(found[0])
    per_group = {name: len(members) for name, members in groups(found, [None]).items()}
    assert per_group == {
        "clean": 1,
        "modality-fixed": 6,
        "modality-random": 15,
        "disrupted": 21,
        "other damage": 10,
    }


def test_a_fixed_cell_disrupts_its_modality_in_every_post() -> None:
    found = disrupted(cell("image corrupt+discard"))
    assert [post for post, _, _ in found] == list(range(40))
    assert {m for _, m, _ in found} == {"image"}
    assert [kind for _, _, kind in found].count(DISCARD) == 20


def test_a_random_cell_disrupts_its_share_and_a_higher_share_the_same_posts_and_more() -> None:
    fewer, more = (set(disrupted(cell(f"random discard {r}"))) for r in ("0.4", "0.6"))
    assert len(fewer) == 16 and len(more) == 24 and fewer < more
    assert {m for _, m, _ in more} == {"text", "image"}


def test_the_seed_draws_the_posts() -> None:
    one, same, other = (cell("random corrupt 0.2", seed=seed) for seed in (1, 1, 2))
    assert one == same and one.disruptions != other.disruptions


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("clean", None),
        ("text discard", None),
        ("text corrupt", True),
        ("random corrupt 0.4", True),
        ("image blur", True),
        ("image occlusion", False),
        ("text cropped", False),
    ],
)
def test_a_cell_says_whether_training_met_its_damage(name: str, met: bool | None) -> None:
    assert met_in_training(cell(name), TRAINED) is met
    assert met_in_training(cell(name), None) is None


def test_unseen_damage_is_what_no_model_met_and_needs_every_model_to_say() -> None:
    found = cells(10)
    more = {"text": ["cropped"], "image": ["jpeg"]}
    unseen = groups(found, [TRAINED, more])["unseen damage"]
    assert [found[number].name for number in unseen] == [
        "image occlusion",
        "image swapped",
        "text no_vowels",
        "text shuffled",
        "text swapped",
    ]
    assert "unseen damage" not in groups(found, [TRAINED, None])


def posts(count: int = 12) -> list[TrainingPost]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        text = f"sunny day number {number} with good rainish weather and more words"
        made.append(TrainingPost(text, buffer.getvalue(), number % 3))
    return [*made, TrainingPost(None, made[0].image, 0), TrainingPost("no image", None, 1)]


def views_of(annotator: Annotator, seed: int = 0) -> dict[str, FeatureViews]:
    corpus = TrainingCorpus(posts(), annotator.processor, annotator.model.config.max_text_tokens)
    return {
        m: encode_views(annotator.model, corpus, m, kinds_to_encode(m), seed) for m in MODALITIES
    }


@pytest.fixture(scope="module")
def annotator(tiny_checkpoint: Path) -> Annotator:
    return Annotator.from_pretrained(str(tiny_checkpoint), device="cpu", threads=1)


@pytest.fixture(scope="module")
def views(annotator: Annotator) -> dict[str, FeatureViews]:
    return views_of(annotator)


def test_every_model_meets_the_same_disruption(
    annotator: Annotator,
    views: dict[str, FeatureViews],
    make_tiny_checkpoint: Callable[..., Path],
) -> None:
    # The same encoders under another model: equal features can come from equal damage alone.
    other = Annotator.from_pretrained(str(make_tiny_checkpoint(seed=4)), device="cpu", threads=1)
    other.model.text_encoder.load_state_dict(annotator.model.text_encoder.state_dict())
    other.model.image_encoder.load_state_dict(annotator.model.image_encoder.state_dict())
    other.model.token_statistics.load_state_dict(annotator.model.token_statistics.state_dict())
    other.processor = annotator.processor
    again = views_of(other)
    for m in MODALITIES:
        assert torch.equal(views[m].features, again[m].features)
    assert not torch.equal(views["image"].features, views_of(annotator, seed=1)["image"].features)


def test_the_clean_cell_is_what_annotating_says(
    annotator: Annotator, views: dict[str, FeatureViews]
) -> None:
    asked = cells(len(posts()))
    clean = outcomes(annotator.model, views, asked)[0]
    said = annotator.predict([annotator.prepare(post.text, post.image) for post in posts()])
    expected = np.array([prediction.probabilities for prediction in said])
    # Views are kept in half precision.
    assert np.abs(clean.probabilities - expected).max() < 5e-3


def test_an_outcome_knows_what_was_damaged_and_how_far_recovery_missed(
    annotator: Annotator, views: dict[str, FeatureViews]
) -> None:
    asked = cells(len(posts()))
    found = dict(zip([c.name for c in asked], outcomes(annotator.model, views, asked), strict=True))
    both = slice(0, 12)
    assert not found["clean"].damaged.any()
    assert np.isnan(found["clean"].recovery_error).all()
    assert found["text corrupt"].damaged[both, 0].all()
    assert not found["text corrupt"].damaged[:, 1].any()
    gone = found["text discard"]
    assert not gone.present[both, 0].any() and (gone.recovery_error[both, 0] > 0).all()
    # The post without an image keeps its text: nothing would be left of it.
    assert gone.present[13].tolist() == [True, False] and np.isnan(gone.recovery_error[13]).all()
    # The one that never had a text has no true feature to miss.
    assert np.isnan(gone.recovery_error[12]).all()


def test_a_design_without_recovery_has_no_recovery_error(
    tiny_checkpoint: Path, views: dict[str, FeatureViews]
) -> None:
    other = Annotator.from_pretrained(str(tiny_checkpoint), device="cpu", threads=1)
    other.model.design = DESIGNS["drf_no_recovery"]
    asked = cells(len(posts()))
    for outcome in outcomes(other.model, views, asked):
        assert np.isnan(outcome.recovery_error).all()


def test_smaller_batches_say_the_same(annotator: Annotator, views: dict[str, FeatureViews]) -> None:
    asked = cells(len(posts()))
    whole, parts = (outcomes(annotator.model, views, asked, batch=size) for size in (512, 5))
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert np.array_equal(one.damaged, other.damaged)


def test_what_many_cells_do_to_a_post_is_asked_once(
    annotator: Annotator, views: dict[str, FeatureViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = cells(len(posts()))
    looked_at = []
    forward = annotator.model.forward_features

    def count(*inputs: Any) -> Any:
        looked_at.append(len(inputs[2]))
        return forward(*inputs)

    monkeypatch.setattr(annotator.model, "forward_features", count)
    found = {cell.name: one for cell, one in zip(asked, outcomes(annotator.model, views, asked),
                                                 strict=True)}  # fmt: skip
    pairs = {pair for cell in asked for pair in enumerate(cell.disruptions)}
    assert sum(looked_at) == len(pairs) < len(asked) * len(posts()) / 2
    [mixed] = [cell for cell in asked if cell.name == "random corrupt+discard 0.6"]
    kinds = set()
    for post, disruption in enumerate(mixed.disruptions):
        done = [(m, kind) for m, kind in zip(MODALITIES, disruption.kinds(), strict=True) if kind]
        kinds |= set(done)
        alone = found[" ".join(done[0]) if done else "clean"]
        for name in ("probabilities", "quality", "present", "damaged", "recovery_error"):
            assert np.array_equal(
                getattr(found[mixed.name], name)[post], getattr(alone, name)[post], equal_nan=True
            ), (post, disruption, name)
    assert len(kinds) > 2
