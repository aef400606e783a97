"""Disruption of posts: what training and evaluation do to modalities on purpose.

The paper's two strategies: *corrupt* (40-80 % of the pixels black, or of the words masked,
ratio drawn per post) and *discard* (the modality is gone). The other kinds of damage are our
own: a distribution of disrupted posts generalises only if it has seen many kinds.

Every function takes a `numpy.random.Generator`, so the same seed disrupts alike for every
model compared. Images are uint8 (3, height, width) at the encoder's size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

CORRUPTION_RATIO = (0.4, 0.8)
_VOWELS = frozenset("aeiouAEIOU")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def blacken_pixels(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Corrupt (paper): set 40-80 % of the pixels to black, each drawn on its own."""
    return image * (rng.random(image.shape[1:]) >= rng.uniform(*CORRUPTION_RATIO)).astype(np.uint8)


def blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Gaussian blur with a radius of 3 to 6 % of the side."""
    radius = rng.uniform(0.03, 0.06) * image.shape[1]
    return _with_pillow(image, lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)))


def add_noise(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Gaussian noise with a standard deviation of 40 to 90 grey levels."""
    noise = rng.normal(0.0, rng.uniform(40, 90), image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def compress_heavily(image: np.ndarray, rng: Generator) -> np.ndarray:
    """JPEG of quality 2 to 6."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=int(rng.integers(2, 7)))
    return np.asarray(Image.open(buffer).convert("RGB")).transpose(2, 0, 1).copy()


def occlude(image: np.ndarray, rng: Generator) -> np.ndarray:
    """A box of one colour over 70 to 90 % of each side."""
    result, (height, width) = image.copy(), image.shape[1:]
    rows, columns = (int(rng.uniform(0.7, 0.9) * side) for side in (height, width))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    result[:, top : top + rows, left : left + columns] = rng.integers(0, 256, (3, 1, 1))
    return result


def flatten(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Nothing to see: the image shrunk to 1 to 4 pixels a side and stretched again."""
    side = int(rng.integers(1, 5))
    size = (image.shape[2], image.shape[1])
    return _with_pillow(image, lambda picture: picture.resize((side, side)).resize(size))


def pixelate(image: np.ndarray, rng: Generator) -> np.ndarray:
    """A mosaic of 10 to 24 tiles a side."""
    tiles = int(rng.integers(10, 25))
    size = (image.shape[2], image.shape[1])

    def change(picture: Image.Image) -> Image.Image:
        small = picture.resize((tiles, tiles), Image.Resampling.BOX)
        return small.resize(size, Image.Resampling.NEAREST)

    return _with_pillow(image, change)


def posterise(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Two or three grey levels a channel."""
    step = 255.0 / int(rng.integers(1, 3))
    return (np.rint(image / step) * step).astype(np.uint8)


def cut_patches(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Tiles of a 7 x 7 grid replaced by one colour, each with a chance of 50 to 85 %."""
    height, width = image.shape[1:]
    gone = rng.random((7, 7)) < rng.uniform(0.5, 0.85)
    rows, columns = np.arange(height) * 7 // height, np.arange(width) * 7 // width
    mask = gone[rows][:, columns]
    colour = rng.integers(0, 256, (3, 1, 1)).astype(np.uint8)
    return np.where(mask, colour, image)


def mask_words(text: str, rng: Generator, mask_token: str) -> str:
    """Corrupt (paper): replace 40-80 % of the words by the tokenizer's mask token."""
    words = text.split()
    hidden = rng.random(len(words)) < rng.uniform(*CORRUPTION_RATIO)
    return " ".join(mask_token if hide else word for word, hide in zip(words, hidden, strict=True))


def misspell(text: str, rng: Generator, mask_token: str) -> str:
    """Typos: 20 % of the letters dropped, doubled, swapped or replaced."""
    letters = list(text)
    for index in range(len(letters)):
        if not letters[index].isalpha() or rng.random() >= 0.2:
            continue
        kind = rng.integers(4)
        if kind == 0:
            letters[index] = ""
        elif kind == 1:
            letters[index] *= 2
        elif kind == 2 and index + 1 < len(letters):
            letters[index], letters[index + 1] = letters[index + 1], letters[index]
        else:
            letters[index] = _LETTERS[rng.integers(26)]
    return "".join(letters)


def drop_vowels(text: str, rng: Generator, mask_token: str) -> str:
    """Remove the Latin vowels."""
    return "".join(letter for letter in text if letter not in _VOWELS)


def shuffle_words(text: str, rng: Generator, mask_token: str) -> str:
    """Put the words in random order."""
    return " ".join(rng.permutation(text.split()).tolist())


def crop_words(text: str, rng: Generator, mask_token: str) -> str:
    """Keep a run of 10 to 30 % of the words, at least one."""
    words = text.split()
    kept = max(1, round(rng.uniform(0.1, 0.3) * len(words)))
    start = int(rng.integers(0, len(words) - kept + 1)) if words else 0
    return " ".join(words[start : start + kept])


ImageDamage = Callable[[np.ndarray, Generator], np.ndarray]
TextDamage = Callable[[str, Generator, str], str]

IMAGE_DAMAGES: dict[str, ImageDamage] = {
    "corrupt": blacken_pixels,
    "blur": blur,
    "noise": add_noise,
    "jpeg": compress_heavily,
    "occlusion": occlude,
    "flat": flatten,
    "pixelated": pixelate,
    "posterised": posterise,
    "patches": cut_patches,
}
TEXT_DAMAGES: dict[str, TextDamage] = {
    "corrupt": mask_words,
    "typos": misspell,
    "no_vowels": drop_vowels,
    "cropped": crop_words,
    "shuffled": shuffle_words,
}
DISCARD = "discard"
# Another post's text or image in this post's place; needs the corpus, so no function here.
SWAPPED = "swapped"

# What training uses unless told otherwise. Swapped and shuffled are kept for evaluation:
# neither looks strange on its own.
TRAINED_IMAGE_KINDS = ("corrupt", "blur", "noise", "jpeg", "occlusion", "flat", "pixelated",
                       "posterised", "patches")  # fmt: skip
TRAINED_TEXT_KINDS = ("corrupt", "typos", "no_vowels", "cropped")
# Beyond the paper's protocol: what evaluation damages a modality with, to see how a model
# copes with what it was not trained on.
EVALUATED_IMAGE_KINDS = ("blur", "noise", "jpeg", "occlusion", SWAPPED)
EVALUATED_TEXT_KINDS = ("typos", "no_vowels", "shuffled", "cropped", SWAPPED)


@dataclass(frozen=True)
class Disruption:
    """What is done to one post: a kind per modality, None where it stays as it is."""

    text: str | None = None
    image: str | None = None

    def kinds(self) -> tuple[str | None, str | None]:
        """What is done to text and image."""
        return self.text, self.image


STRATEGIES: dict[str, tuple[str, ...]] = {
    "corrupt": ("corrupt",),
    "discard": (DISCARD,),
    "corrupt+discard": ("corrupt", DISCARD),
}


def modality_fixed(count: int, modality: str, strategy: str) -> list[Disruption]:
    """One named modality disrupted in each of count posts (paper: modality-fixed).

    strategy: corrupt, discard, or corrupt+discard, which does each to every other post.
    """
    kinds = STRATEGIES[strategy]
    return [Disruption(**{modality: kinds[post % len(kinds)]}) for post in range(count)]


def modality_random(count: int, strategy: str, ratio: float, seed: int) -> list[Disruption]:
    """A share of count posts disrupted, in a modality drawn at random (paper: modality-random).

    strategy as in `modality_fixed`. A higher ratio disrupts the same posts in the same way,
    and more of them.
    """
    rng = np.random.default_rng(seed)
    order, columns = rng.permutation(count), rng.integers(2, size=count)
    flips = rng.permutation(count)
    kinds = STRATEGIES[strategy]
    drawn = [Disruption()] * count
    for post in order[: round(ratio * count)].tolist():
        modality = ("text", "image")[columns[post]]
        drawn[post] = Disruption(**{modality: kinds[int(flips[post]) % len(kinds)]})
    return drawn


def draw_training_disruptions(
    count: int, rng: Generator, share: float, text_kinds: list[str], image_kinds: list[str]
) -> list[Disruption]:
    """Disruptions for a batch of count posts: a share of them loses or damages a modality.

    The modality is drawn at random; half of the disruptions discard it, half damage it in a
    kind drawn evenly. Never both modalities: such a post teaches nothing.
    """
    drawn = []
    for _ in range(count):
        if rng.random() >= share:
            drawn.append(Disruption())
            continue
        modality = ("text", "image")[rng.integers(2)]
        kinds = text_kinds if modality == "text" else image_kinds
        kind = DISCARD if rng.random() < 0.5 or not kinds else kinds[rng.integers(len(kinds))]
        drawn.append(Disruption(**{modality: kind}))
    return drawn


def _with_pillow(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    changed = change(Image.fromarray(image.transpose(1, 2, 0)))
    return np.asarray(changed).transpose(2, 0, 1).copy()
