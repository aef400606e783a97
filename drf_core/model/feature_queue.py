"""Feature queues: the last raw encoder features of a modality, first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The last `length` rows of one or more features that belong together (paper).

    Raw encoder features, detached, in buffers, so that a checkpoint carries them.
    With {"text": 384, "image": 1280} the entries of one post stay paired.

    kept: whether a checkpoint holds the rows.

    Buffers: <name> (length, size); post (length,), the training post each row came from,
    -1 where empty; pushed (), rows pushed so far.
    """

    pushed: Tensor
    post: Tensor

    def __init__(self, length: int, sizes: dict[str, int], kept: bool = True) -> None:
        super().__init__()
        self.length = length
        self.names = tuple(sizes)
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(length, size), persistent=kept)
        self.register_buffer("post", torch.full((length,), -1, dtype=torch.long), persistent=kept)
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long), persistent=kept)

    def clear(self) -> None:
        """Forget every row."""
        self.post.fill_(-1)
        self.pushed.zero_()

    @torch.no_grad()
    def push(self, features: dict[str, Tensor], post: Tensor) -> None:
        """Append rows, dropping the oldest; features[name] (n, size), post (n,)."""
        rows = post.shape[0]
        if rows == 0:
            return
        slots = (int(self.pushed) + torch.arange(rows, device=post.device)) % self.length
        # Of more rows than slots only the last may stay: duplicate slots write in no order.
        keep = slice(max(0, rows - self.length), rows)
        for name in self.names:
            getattr(self, name)[slots[keep]] = (
                features[name][keep].detach().to(self.post.device, torch.float32)
            )
        self.post[slots[keep]] = post[keep]
        self.pushed += rows

    def rows(self, name: str) -> Tensor:
        """Filled rows of one feature, (filled, size)."""
        return getattr(self, name)[: self.filled]

    @property
    def filled(self) -> int:
        """Rows in the queue, at most `length`."""
        return min(int(self.pushed), self.length)
