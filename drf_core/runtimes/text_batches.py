"""Texts about equally long together: padding costs as much as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# OpenVINO keeps what it made for each shape: of batches of every width that was 200 MB in 20,000
# texts, and more with each hour; of every eighth it is 30.
_WIDTHS = 8


def text_batches(
    token_ids: Sequence[list[int]], pad: int, most: int, largest: int, cost: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of at most `largest` texts, sorted by length and padded with `pad`.

    cost: tokens that a processor computes in the time that beginning a batch takes it; the batches
    are those that cost least. They are as wide as their longest text, rounded up to a multiple of
    8, but not beyond `most` tokens, which an encoder may not read. Yields the texts' places in
    token_ids (n,), and their ids and attention mask, int64 (n, tokens) each.
    """
    lengths = np.array([len(ids) for ids in token_ids])
    widths = np.maximum(lengths, np.minimum(-(-lengths // _WIDTHS) * _WIDTHS, most))
    order = np.argsort(lengths, kind="stable")
    for start, end in _cheapest(widths[order], largest, cost):
        rows = order[start:end]
        width = int(widths[rows].max())
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[row]] = token_ids[row]
            mask[place, : lengths[row]] = 1
        yield rows, ids, mask


def _cheapest(widths: np.ndarray, largest: int, cost: int) -> list[tuple[int, int]]:
    """Where to cut ascending widths, as starts and ends, so that padding and batches cost least.

    By dynamic programming: the cheapest cut of the first texts, then of one more.
    """
    least = np.zeros(len(widths) + 1, np.int64)
    last_start = np.zeros(len(widths) + 1, np.int64)
    for end, width in enumerate(widths, 1):
        starts = np.arange(max(0, end - largest), end)
        costs = least[starts] + cost + (end - starts) * int(width)
        best = int(costs.argmin())
        least[end], last_start[end] = costs[best], starts[best]
    cuts: list[tuple[int, int]] = []
    end = len(widths)
    while end:
        cuts.append((int(last_start[end]), end))
        end = cuts[-1][0]
    return cuts[::-1]
