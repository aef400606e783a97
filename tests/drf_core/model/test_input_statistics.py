"""What can be told of an input without an encoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drf_core.model.input_statistics import (
    IMAGE_STATISTICS,
    TEXT_STATISTICS,
    TokenStatistics,
    image_statistics,
)
from drf_core.training.building import train_tokenizer

FAMILIAR = [
    f"the {what} was {how} in the {when}"
    for what in ("lake", "film", "train")
    for how in ("lovely", "late", "boring")
    for when in ("morning", "evening")
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(FAMILIAR, 360, 64)


@pytest.fixture(scope="module")
def statistics(tokenizer: Any) -> TokenStatistics:
    made = TokenStatistics(len(tokenizer))
    made.fit([tokenizer(text)["input_ids"] for text in FAMILIAR], tokenizer)
    return made


def described(statistics: TokenStatistics, tokenizer: Any, *texts: str) -> torch.Tensor:
    ids = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, ids))
    padded = torch.tensor([one + [tokenizer.pad_token_id] * (width - len(one)) for one in ids])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids])
    return statistics(padded, mask)


def test_padding_changes_nothing(statistics: TokenStatistics, tokenizer: Any) -> None:
    texts = ["the lake was late", "a", "the film was boring in the evening in the morning"]
    together = described(statistics, tokenizer, *texts)
    assert together.shape == (3, TEXT_STATISTICS)
    for row, text in enumerate(texts):
        assert torch.allclose(together[row], described(statistics, tokenizer, text)[0], atol=1e-6)


def test_familiar_texts_are_told_from_others(statistics: TokenStatistics, tokenizer: Any) -> None:
    known, shuffled, foreign = described(
        statistics,
        tokenizer,
        "the train was lovely in the evening",
        "evening lovely the in train was the",
        "dszt qmv wkrx hpb",
    )
    pairs, frequency, goes_on, _ = range(4)
    # Words in another order are as frequent, but not as neighbours.
    assert known[pairs] > shuffled[pairs] > foreign[pairs]
    assert known[frequency] == pytest.approx(float(shuffled[frequency]), abs=0.2)
    assert known[frequency] > foreign[frequency]
    # What is no word falls apart into pieces.
    assert foreign[goes_on] > known[goes_on]


def test_a_text_that_repeats_itself_has_few_different_tokens(
    statistics: TokenStatistics, tokenizer: Any
) -> None:
    once, again = described(statistics, tokenizer, "lake film train", "lake lake lake lake lake")
    assert once[3] == 1 and again[3] < 0.5


def test_an_empty_text_has_finite_statistics(statistics: TokenStatistics, tokenizer: Any) -> None:
    assert bool(described(statistics, tokenizer, "").isfinite().all())
    assert bool(statistics(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)).isfinite().all())


@pytest.mark.parametrize(
    ("pieces", "goes_on"),
    [
        (["[CLS]", "lake", "##side"], [0, 0, 1]),
        (["<s>", "\u0120lake", "side"], [1, 0, 1]),
        (["<s>", "\u2581lake", "side"], [1, 0, 1]),
    ],
)
def test_pieces_that_go_on_with_a_word_are_known_in_every_kind_of_tokenizer(
    pieces: list[str], goes_on: list[float]
) -> None:
    class Pieces(SimpleNamespace):
        def __len__(self) -> int:
            return len(pieces)

    made = TokenStatistics(4)
    made.fit([[0, 1, 2]], Pieces(convert_ids_to_tokens=lambda ids: [pieces[i] for i in ids]))
    assert made.continues.tolist() == [*goes_on, 0]


def pictures() -> torch.Tensor:
    """Noise, a ramp, stripes, one colour."""
    rng = np.random.default_rng(0)
    made = np.zeros((4, 3, 128, 128), np.uint8)
    made[0] = rng.integers(0, 256, (3, 128, 128))
    made[1] = np.linspace(0, 255, 128).astype(np.uint8)
    made[2, 0] = 255 * (np.arange(128) // 8 % 2)[:, None]
    made[3] = 120
    return torch.from_numpy(made)


def test_an_images_statistics_are_the_same_in_any_batch() -> None:
    together = image_statistics(pictures())
    assert together.shape == (4, IMAGE_STATISTICS) and bool(together.isfinite().all())
    for row, picture in enumerate(pictures()):
        assert torch.allclose(image_statistics(picture[None])[0], together[row], atol=1e-5)
    again = image_statistics(pictures().repeat(5, 1, 1, 1))
    assert torch.allclose(again[-4:], together, atol=1e-5)


def test_noise_patterns_and_one_colour_are_told_apart() -> None:
    noise, ramp, stripes, flat = image_statistics(pictures())
    finest, equal, strong, entropy, spread, colourful, axes = 0, 4, 5, 6, 7, 8, 9
    assert noise[finest] > stripes[finest] > ramp[finest] > flat[finest]
    assert flat[equal] == 1 and noise[equal] < 0.1
    assert noise[strong] > 0.3 and ramp[strong] == 0
    assert noise[entropy] > 2 and flat[entropy] == pytest.approx(0, abs=1e-3)
    assert ramp[spread] > flat[spread] and stripes[colourful] > ramp[colourful]
    # The ramp goes across, the stripes down.
    assert ramp[axes] > 0 > stripes[axes]


@pytest.mark.parametrize("side", [16, 33])
def test_small_images_have_statistics(side: int) -> None:
    small = pictures()[:, :, :side, : side + 3]
    assert bool(image_statistics(small).isfinite().all())
