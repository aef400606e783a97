"""Texts about equally long together: padding costs as much as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def text_batches(
    token_ids: Sequence[list[int]], pad: int, largest: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of at most `largest` texts, sorted by length and padded with `pad`.

    Yields the texts' places in token_ids (n,), and their ids and attention mask, int64
    (n, tokens) each.
    """
    lengths = np.array([len(ids) for ids in token_ids])
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), largest):
        rows = order[start : start + largest]
        width = int(lengths[rows].max())
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[row]] = token_ids[row]
            mask[place, : lengths[row]] = 1
        yield rows, ids, mask
