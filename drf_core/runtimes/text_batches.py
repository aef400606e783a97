"""Texts about equally long together: padding costs as much as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def text_batches(
    token_ids: Sequence[list[int]], pad: int, largest: int, cost: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of at most `largest` texts, sorted by length and padded with `pad`.

    cost: tokens that a processor computes in the time that beginning a batch takes it; the batches
    are those that cost least. Yields the texts' places in token_ids (n,), and their ids and
    attention mask, int64 (n, tokens) each.
    """
    lengths = np.array([len(ids) for ids in token_ids])
    order = np.argsort(lengths, kind="stable")
    for start, end in _cheapest(lengths[order], largest, cost):
        rows = order[start:end]
        width = int(lengths[rows].max())
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[row]] = token_ids[row]
            mask[place, : lengths[row]] = 1
        yield rows, ids, mask


def _cheapest(lengths: np.ndarray, largest: int, cost: int) -> list[tuple[int, int]]:
    """Where to cut ascending lengths, as starts and ends, so that padding and batches cost least.

    By dynamic programming: the cheapest cut of the first texts, then of one more.
    """
    least = np.zeros(len(lengths) + 1, np.int64)
    last_start = np.zeros(len(lengths) + 1, np.int64)
    for end, length in enumerate(lengths, 1):
        starts = np.arange(max(0, end - largest), end)
        costs = least[starts] + cost + (end - starts) * int(length)
        best = int(costs.argmin())
        least[end], last_start[end] = costs[best], starts[best]
    cuts: list[tuple[int, int]] = []
    end = len(lengths)
    while end:
        cuts.append((int(last_start[end]), end))
        end = cuts[-1][0]
    return cuts[::-1]
