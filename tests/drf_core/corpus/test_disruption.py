"""Disruptions do what the protocol says, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from drf_core.corpus.disruption import (
    DISCARD,
    IMAGE_DAMAGES,
    STRATEGIES,
    TEXT_DAMAGES,
    Disruption,
    blacken_pixels,
    crop_words,
    cut_patches,
    draw_training_disruptions,
    mask_words,
    modality_fixed,
    modality_random,
    pixelate,
    posterise,
    shuffle_words,
)

TEXT = "what a lovely morning on the beach with everybody I know and love dearly"


def image(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(30, 256, (3, side, side), dtype=np.uint8)


def test_corruption_blackens_40_to_80_percent_of_the_pixels_in_all_channels() -> None:
    shares = []
    for seed in range(200):
        damaged = blacken_pixels(image(), np.random.default_rng(seed))
        black = (damaged == 0).all(0)
        assert np.array_equal(damaged[:, ~black], image()[:, ~black])
        shares.append(black.mean())
    assert 0.37 < min(shares) < 0.45 and 0.75 < max(shares) < 0.83


def test_corruption_masks_40_to_80_percent_of_the_words() -> None:
    text = " ".join(f"word{i}" for i in range(400))
    shares = []
    for seed in range(100):
        words = mask_words(text, np.random.default_rng(seed), "[MASK]").split()
        assert len(words) == 400
        shares.append(words.count("[MASK]") / 400)
    assert 0.33 < min(shares) < 0.48 and 0.72 < max(shares) < 0.87


@pytest.mark.parametrize("kind", IMAGE_DAMAGES)
def test_image_damage_keeps_shape_is_seeded_and_changes_the_image(kind: str) -> None:
    damage = IMAGE_DAMAGES[kind]
    once, again, other = (damage(image(), np.random.default_rng(s)) for s in (1, 1, 2))
    assert once.shape == (3, 64, 64) and once.dtype == np.uint8
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    assert np.abs(once.astype(int) - image()).mean() > 5


@pytest.mark.parametrize("kind", TEXT_DAMAGES)
def test_text_damage_is_seeded_and_changes_the_text(kind: str) -> None:
    damage = TEXT_DAMAGES[kind]
    once, again = (damage(TEXT, np.random.default_rng(1), "[MASK]") for _ in range(2))
    assert once == again != TEXT


@pytest.mark.parametrize("kind", TEXT_DAMAGES)
@pytest.mark.parametrize("text", ["a", "😀", "   ", "مرحبا بالعالم"])
def test_text_damage_copes_with_any_text(kind: str, text: str) -> None:
    assert isinstance(TEXT_DAMAGES[kind](text, np.random.default_rng(0), "[MASK]"), str)


def test_cropping_keeps_a_run_of_words() -> None:
    cropped = crop_words(TEXT, np.random.default_rng(3), "[MASK]")
    assert cropped in TEXT and 1 <= len(cropped.split()) <= 5


def test_the_modality_fixed_protocol_disrupts_one_modality_of_every_post() -> None:
    assert modality_fixed(3, "text", "corrupt") == [Disruption(text="corrupt")] * 3
    assert modality_fixed(2, "image", "discard") == [Disruption(image=DISCARD)] * 2
    both = [d.image for d in modality_fixed(10, "image", "corrupt+discard")]
    assert both.count("corrupt") == both.count(DISCARD) == 5


def test_training_disrupts_a_share_of_the_posts_and_never_both_modalities() -> None:
    drawn = draw_training_disruptions(
        4000, np.random.default_rng(0), 0.5, ["corrupt", "typos"], ["corrupt", "blur"]
    )
    disrupted = [d for d in drawn if d.text or d.image]
    assert 0.47 < len(disrupted) / 4000 < 0.53
    assert not any(d.text and d.image for d in drawn)
    kinds = [d.text or d.image for d in disrupted]
    assert 0.46 < kinds.count(DISCARD) / len(kinds) < 0.54
    assert {"corrupt", "typos", "blur"} <= set(kinds)


RANDOM_CASES = [(strategy, ratio) for strategy in STRATEGIES for ratio in (0.2, 0.5, 1.0)]


@pytest.mark.parametrize(("strategy", "ratio"), RANDOM_CASES)
def test_the_modality_random_protocol_disrupts_a_share_of_the_posts(
    strategy: str, ratio: float
) -> None:
    drawn = modality_random(1000, strategy, ratio, seed=0)
    disrupted = [d for d in drawn if d != Disruption()]
    assert len(drawn) == 1000 and len(disrupted) == round(1000 * ratio)
    assert not any(d.text and d.image for d in disrupted)
    kinds = [d.text or d.image for d in disrupted]
    assert set(kinds) == set(STRATEGIES[strategy])
    for share in (sum(d.text is not None for d in disrupted), kinds.count(kinds[0])):
        if len(STRATEGIES[strategy]) == 2 or share != len(disrupted):
            assert 0.4 < share / len(disrupted) < 0.6
    # Which modality is disrupted says nothing of how.
    of_text = [d.text for d in disrupted if d.text]
    assert len(STRATEGIES[strategy]) == 1 or 0.4 < of_text.count(DISCARD) / len(of_text) < 0.6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_higher_ratio_disrupts_the_same_posts_in_the_same_way_and_more(strategy: str) -> None:
    none, few, more = (modality_random(100, strategy, ratio, seed=1) for ratio in (0.0, 0.4, 0.8))
    assert none == [Disruption()] * 100
    assert all(low in (Disruption(), high) for low, high in zip(few, more, strict=True))
    assert few != more


def test_which_posts_are_disrupted_depends_on_the_seed_alone() -> None:
    once, again, other = (modality_random(100, "corrupt", 0.4, seed) for seed in (0, 0, 1))
    assert once == again != other
    # Spread over the corpus, however it is sorted.
    places = [post for post, d in enumerate(once) if d != Disruption()]
    assert sum(place < 50 for place in places) in range(12, 29)


def test_shuffling_keeps_every_word() -> None:
    shuffled = [shuffle_words(TEXT, np.random.default_rng(seed), "[MASK]") for seed in (0, 1)]
    assert all(sorted(text.split()) == sorted(TEXT.split()) for text in shuffled)
    assert shuffled[0] != shuffled[1] != TEXT


def test_a_pixelated_image_is_a_mosaic_of_10_to_24_tiles_a_side_in_mean_colours() -> None:
    counts = set()
    for seed in range(60):
        mosaic = pixelate(image(240), np.random.default_rng(seed))
        edges = [
            1 + int((np.diff(mosaic.astype(int), axis=axis) != 0).any((0, 3 - axis)).sum())
            for axis in (1, 2)
        ]
        assert edges[0] == edges[1]
        counts.add(edges[0])
    assert min(counts) == 10 and max(counts) == 24
    # Twelve pixels a tile, or twenty-four: no rounding of edges.
    tile = pixelate(np.full((3, 48, 48), 77, np.uint8), np.random.default_rng(0))
    assert (tile == 77).all()
    half = np.zeros((3, 48, 48), np.uint8)
    half[:, ::2] = 200
    means = pixelate(half, np.random.default_rng(0))
    assert means.min() > 40 and means.max() < 160


def test_a_posterised_image_has_two_or_three_levels_a_channel_nearest_to_the_original() -> None:
    found = set()
    for seed in range(20):
        levels = posterise(image(), np.random.default_rng(seed))
        values = tuple(np.unique(levels).tolist())
        found.add(values)
        assert np.abs(levels.astype(int) - image()).max() <= 255 / (len(values) - 1) / 2 + 1
    assert found == {(0, 255), (0, 127, 255)}


def test_cut_patches_replace_about_half_to_most_tiles_by_one_colour() -> None:
    shares = []
    for seed in range(300):
        cut = cut_patches(image(70), np.random.default_rng(seed))
        changed = (cut != image(70)).any(0)
        tiles = changed.reshape(7, 10, 7, 10).mean((1, 3))
        gone = tiles > 0.5  # a pixel may have the colour by chance
        assert ((tiles == 0) | gone).all()
        colours = cut[:, np.kron(gone, np.ones((10, 10), bool))]
        assert (colours == colours[:, :1]).all()
        shares.append(gone.mean())
    # Each tile is drawn on its own, with a probability of 50 to 85 %.
    assert 0.64 < np.mean(shares) < 0.71
    assert 0.25 < min(shares) < 0.5 and 0.85 < max(shares) <= 1
