"""A labelled corpus while a model trains on it or is evaluated: its texts, pixels, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from drf_core.corpus.disruption import DISCARD, TEXT_DAMAGES
from drf_core.corpus.images import StoredImage, image_bytes
from drf_core.decoding.images import decode_image
from drf_core.decoding.texts import text_reason
from drf_core.model.processing_drf import DRFProcessor
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

UNLABELLED = -1


@dataclass(frozen=True)
class TrainingPost:
    """One post: text, encoded image, label index; None where absent.

    corpus: number of the corpus it is from, each of which has its own shares of labels.
    """

    text: str | None
    image: bytes | StoredImage | None
    label: int = UNLABELLED
    corpus: int = 0


def usable(post: TrainingPost) -> bool:
    """Whether a post has a text to read or an image that decodes."""
    if text_reason(post.text) is None:
        return True
    picture, _ = decode_image(
        image_bytes(post.image),
        max_pixels=MAX_IMAGE_PIXELS,
        max_bytes=MAX_IMAGE_BYTES,
        target=64,
    )
    return picture is not None


class TrainingCorpus:
    """Posts with what training asks of them: texts, damaged or not, pixels, labels."""

    def __init__(self, posts: Sequence[TrainingPost], processor: DRFProcessor, max_tokens: int):
        self.posts = posts
        self.processor = processor
        self.max_tokens = max_tokens
        self.labels = torch.tensor([post.label for post in posts])
        self.corpus = torch.tensor([post.corpus for post in posts])
        self.text_present = torch.tensor([text_reason(post.text) is None for post in posts])
        # Whether an image decodes is known only when it is encoded.
        self.image_present = torch.tensor([bool(post.image) for post in posts])

    def priors(self, labels: int) -> Tensor:
        """Shares of the labels in each corpus, smoothed by one post each; (corpora, labels)."""
        corpora = int(self.corpus.max()) + 1 if len(self) else 0
        counts = torch.ones(corpora, labels)
        known = self.labels >= 0
        places = (self.corpus[known], self.labels[known])
        counts.index_put_(places, torch.ones(int(known.sum())), accumulate=True)
        return counts / counts.sum(1, keepdim=True)

    def __len__(self) -> int:
        """Return the number of posts."""
        return len(self.posts)

    def pixels(self, index: int) -> np.ndarray | None:
        """Image of one post at the encoder's size, uint8 (3, height, width), or None."""
        picture, _ = decode_image(
            image_bytes(self.posts[index].image),
            max_pixels=MAX_IMAGE_PIXELS,
            max_bytes=MAX_IMAGE_BYTES,
            target=self.processor.target,
        )
        return None if picture is None else self.processor.pixels(picture)

    def text(self, index: int, kind: str | None, rng: Generator) -> str | None:
        """Text of one post after a disruption; None where there is nothing left to read."""
        text = self.posts[index].text
        if kind == DISCARD or text_reason(text) is not None or text is None:
            return None
        if kind is None:
            return text
        damaged = TEXT_DAMAGES[kind](text, rng, self.processor.mask_token)
        return damaged if text_reason(damaged) is None else None
