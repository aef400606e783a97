"""Disruptions do what the protocol says, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from drf_core.disruption import (
    DISCARD,
    IMAGE_DAMAGES,
    TEXT_DAMAGES,
    Disruption,
    blacken_pixels,
    crop_words,
    draw_training_disruptions,
    mask_words,
    modality_fixed,
)

TEXT = "what a lovely morning on the beach with everybody I know and love dearly"


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(30, 256, (3, 64, 64), dtype=np.uint8)


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
