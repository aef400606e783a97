"""Texts about equally long together: padding costs as much as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def text_batches(
    token_ids: Sequence[list[int]], pad: int, texts: int, tokens: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of at most so many texts and tokens, sorted by length and padded with `pad`.

    A text that has more tokens alone is a batch. Yields the texts' places in token_ids (n,), and
    their ids and attention mask, int64 (n, tokens) each.
    """
    lengths = np.array([len(ids) for ids in token_ids])
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        widths = lengths[order[start : start + texts]]
        # Widths rise, and what they take with them.
        held = int((widths * np.arange(1, len(widths) + 1) <= tokens).sum())
        rows = order[start : start + max(1, held)]
        start += len(rows)
        width = int(lengths[rows[-1]])
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[row]] = token_ids[row]
            mask[place, : lengths[row]] = 1
        yield rows, ids, mask
