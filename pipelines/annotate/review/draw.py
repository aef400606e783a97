"""Which posts people look at: uncertain, strange and random ones, each with its chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of the posts drawn: a half by chance alone, the others where the model is likely to be wrong.
_SHARES = {"random": 0.5, "uncertain": 0.25, "strange": 0.25}


@dataclass(frozen=True)
class Drawn:
    """Posts drawn. rows: their places, ascending. weights: of each, the posts it stands for.

    kinds: why each was drawn: uncertain, strange or random.
    """

    rows: np.ndarray
    weights: np.ndarray
    kinds: tuple[str, ...]


def draw_posts(confidence: np.ndarray, quality: np.ndarray, most: int, seed: int) -> Drawn:
    """Draw `most` posts, or all of fewer, without replacement, each with a chance of its own.

    confidence (posts,): of the label. quality (posts,): the lower of both modalities'.

    A post's chance is the sum of three: alike for all, more for the uncertain, more for the
    strange. Systematic sampling in random order takes each by its chance, and `most` in all: of
    all chances laid end to end, those are drawn in which a step of one ends. 1 / chance weighs an
    answer back to all posts without bias.
    """
    posts = len(confidence)
    if posts <= most:
        return Drawn(np.arange(posts), np.ones(posts), ("random",) * posts)
    parts = {
        "random": np.ones(posts),
        "uncertain": 1.0 - confidence,
        "strange": 1.0 / (0.02 + quality),
    }
    expected = np.stack(
        [most * share * parts[kind] / parts[kind].sum() for kind, share in _SHARES.items()]
    )
    chance = _capped(expected.sum(0), most)
    rng = np.random.default_rng(seed)
    order = rng.permutation(posts)
    steps = np.floor(np.cumsum(chance[order]) + rng.random())
    rows = np.sort(order[np.diff(steps, prepend=0.0) > 0])
    # Each is named for one of the three, as often as that one was what drew it.
    parted = np.cumsum(expected[:, rows] / expected[:, rows].sum(0), axis=0)
    named = (rng.random(len(rows)) > parted).sum(0)
    kinds = tuple(list(_SHARES)[min(int(place), len(_SHARES) - 1)] for place in named)
    return Drawn(rows, 1.0 / chance[rows], kinds)


def _capped(chance: np.ndarray, most: int) -> np.ndarray:
    """Chances of at most 1 with the same sum."""
    sure = np.zeros(len(chance), bool)
    while ((chance > 1.0) & ~sure).any():
        sure |= chance >= 1.0
        rest = chance[~sure]
        chance = np.where(sure, 1.0, chance * ((most - sure.sum()) / rest.sum()))
    return chance
