"""What can be told of an input without an encoder: familiar tokens, how pixels vary.

Our own reading: pooled features of damaged or foreign inputs can lie close to those of ordinary
ones, and say little of what an encoder was never trained to tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TEXT_STATISTICS = 5
IMAGE_STATISTICS = 10
# Which side of a statistic is ordinary: 1 high, -1 low, 0 neither. A text is strange for unknown
# tokens, words in pieces and repetition, and not for the opposite.
STATISTICS_SIGNS = {"text": (1.0, 1.0, -1.0, 1.0), "image": (0.0,) * IMAGE_STATISTICS}
# Whose last statistic is none of these, but one divided by the input's length.
KNOWS_LENGTH = {"text": True, "image": False}

_BUCKETS = 1 << 18
_MIDDLE = 96


class TokenStatistics(nn.Module):
    """How familiar the tokens of a text are, by the texts of the training.

    Buffers: frequency (tokens,) log share of each token; pairs (buckets,) log of how often two
    neighbours were seen, hashed; continues (tokens,), 1 where a token goes on with a word.
    """

    frequency: Tensor
    pairs: Tensor
    continues: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.zeros(tokens))
        self.register_buffer("pairs", torch.zeros(_BUCKETS))
        self.register_buffer("continues", torch.zeros(tokens))

    @torch.no_grad()
    def fit(self, texts: Iterable[Sequence[int]], tokenizer: Any) -> None:
        """Count the token ids of texts, special tokens included."""
        tokens = len(self.frequency)
        single, double = np.full(tokens, 0.5), np.full(_BUCKETS, 0.5)
        for text in texts:
            ids = np.asarray(text, np.int64)
            np.add.at(single, ids, 1)
            np.add.at(double, _bucket(ids[:-1], ids[1:]), 1)
        self.frequency.copy_(torch.from_numpy(np.log(single / single.sum())))
        self.pairs.copy_(torch.from_numpy(np.log(double)))
        pieces = tokenizer.convert_ids_to_tokens(range(min(tokens, len(tokenizer))))
        goes_on = [float(_goes_on(piece, pieces)) for piece in pieces]
        self.continues[: len(goes_on)] = torch.tensor(goes_on)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Statistics of texts; (n, tokens) each -> (n, 5).

        Means over the text: log count of its pairs, log share of its tokens, share of tokens that
        go on with a word; the share of its tokens that differ; one divided by how many they are.
        """
        inner = attention_mask.bool().clone()
        inner[:, 0] = False
        count = inner.sum(1).clamp_min(1)
        seen = self.pairs[_bucket(input_ids[:, :-1], input_ids[:, 1:])]
        pairs = (seen * inner[:, 1:]).sum(1) / count
        frequency = (self.frequency[input_ids] * inner).sum(1) / count
        goes_on = (self.continues[input_ids] * inner).sum(1) / count
        ordered = torch.where(inner, input_ids, -1).sort(1).values
        new = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + (ordered[:, 0] >= 0)
        return torch.stack([pairs, frequency, goes_on, new / count, 1 / count], 1).float()


def _bucket(left: Any, right: Any) -> Any:
    return (_times(left, 1000003) + _times(right, 8191)) % _BUCKETS


def _times(numbers: Any, factor: int) -> Any:
    """A product modulo _BUCKETS, by digits of 64: OpenVINO computes remainders in 24 bits."""
    digits = (numbers % 64, numbers // 64 % 64, numbers // 4096)
    return sum(d * (64**n * factor % _BUCKETS) % _BUCKETS for n, d in enumerate(digits))


def _goes_on(piece: str, pieces: Sequence[str]) -> bool:
    for mark in ("\u0120", "\u2581"):  # how byte-level BPE and SentencePiece begin a word
        if any(one.startswith(mark) for one in pieces[:2000]):
            return not piece.startswith(mark)
    return piece.startswith("##")


@torch.no_grad()
def image_statistics(pixels: Tensor) -> Tensor:
    """Statistics of images; uint8 (n, 3, height, width) -> (n, 10).

    Log mean difference of neighbouring pixels at four scales, the share of neighbours that are
    equal and of those that differ strongly, the entropy of the grey levels, spread of brightness,
    colourfulness, and how much more neighbours differ along one axis than along the other.
    """
    # The finest scale from the middle alone and colours from every fourth pixel, for speed.
    top, left = (max(0, (side - _MIDDLE) // 2) for side in pixels.shape[2:])
    grey = pixels.float().mean(1, keepdim=True)
    middle = grey[..., top : top + _MIDDLE, left : left + _MIDDLE]
    # Of one channel: in OpenVINO pooling three takes longer than all else here.
    scaled = functional.avg_pool2d(grey, 2)
    across, down = _differences(middle)
    found = [_log_mean(across, down)]
    equal = 0.5 * (_share(across < 0.5) + _share(down < 0.5))
    strong = 0.5 * (_share(across > 40) + _share(down > 40))
    axes = (across.mean((1, 2, 3)) + 0.1).log() - (down.mean((1, 2, 3)) + 0.1).log()
    bins = (middle.flatten(1) / 8).long().clamp_(0, 31)
    # Of shape[0] and not len: what traces this shall not take the batch for a constant.
    levels = torch.zeros(bins.shape[0], 32, device=bins.device)
    levels = levels.scatter_add(1, bins, torch.full_like(middle.flatten(1), 1 / len(bins[0])))
    entropy = -(levels * levels.clamp_min(1e-9).log()).sum(1)
    for scale in range(3):
        found.append(_log_mean(*_differences(scaled)))
        if scale < 2:
            scaled = functional.avg_pool2d(scaled, 2)
    colour = pixels[..., ::4, ::4].float()
    spread = (colour.mean(1).flatten(1).std(1) + 1).log()
    red_green = (colour[:, 0] - colour[:, 1]).flatten(1).std(1)
    yellow_blue = (0.5 * (colour[:, 0] + colour[:, 1]) - colour[:, 2]).flatten(1).std(1)
    colourful = (red_green + yellow_blue + 1).log()
    return torch.stack([*found, equal, strong, entropy, spread, colourful, axes], 1)


def _differences(grey: Tensor) -> tuple[Tensor, Tensor]:
    return (
        (grey[..., 1:] - grey[..., :-1]).abs_(),
        (grey[..., 1:, :] - grey[..., :-1, :]).abs_(),
    )


def _log_mean(across: Tensor, down: Tensor) -> Tensor:
    return (0.5 * (across.mean((1, 2, 3)) + down.mean((1, 2, 3))) + 0.1).log()


def _share(where: Tensor) -> Tensor:
    return where.flatten(1).sum(1) / where[0].numel()
