"""A labelled corpus while a model trains on it: views of its posts, encoded or to encode."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from tqdm import tqdm

from drf_core.annotator import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, available_cores
from drf_core.disruption import DISCARD, IMAGE_DAMAGES, TEXT_DAMAGES, Disruption
from drf_core.images import decode_image
from drf_core.modeling_drf import DRFModel
from drf_core.processing_drf import DRFProcessor
from drf_core.texts import text_reason

UNLABELLED = -1


@dataclass(frozen=True)
class TrainingPost:
    """One post: text, encoded image file, label index; None where absent."""

    text: str | None
    image: bytes | None
    label: int = UNLABELLED


def usable(post: TrainingPost) -> bool:
    """Whether a post has a text to read or an image that decodes."""
    if text_reason(post.text) is None:
        return True
    picture, _ = decode_image(
        post.image, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES, target=64
    )
    return picture is not None


@dataclass(frozen=True)
class ImageViews:
    """Raw features of every image, as it came and damaged, of an encoder that stays as it is.

    features (posts, 1 + views, size) float16, view 0 undisrupted; kinds (posts, views): index
    into `names` of the damage; present (posts,) bool.
    """

    features: Tensor
    kinds: Tensor
    present: Tensor
    names: tuple[str, ...]


class TrainingCorpus:
    """Posts with what training asks of them: tokens, pixels, features of a batch."""

    def __init__(self, posts: Sequence[TrainingPost], processor: DRFProcessor, max_tokens: int):
        self.posts = posts
        self.processor = processor
        self.max_tokens = max_tokens
        self.labels = torch.tensor([post.label for post in posts])
        self.text_present = torch.tensor([text_reason(post.text) is None for post in posts])
        # Whether an image decodes is known only when it is encoded.
        self.image_present = torch.tensor([bool(post.image) for post in posts])
        self.views: ImageViews | None = None

    def __len__(self) -> int:
        """Return the number of posts."""
        return len(self.posts)

    def pixels(self, index: int) -> np.ndarray | None:
        """Image of one post at the encoder's size, uint8 (3, height, width), or None."""
        picture, _ = decode_image(
            self.posts[index].image,
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

    def encode_images(
        self, model: DRFModel, kinds: Sequence[str], views: int, seed: int, description: str
    ) -> None:
        """Encode every image and `views` damaged copies once, for a frozen image encoder."""
        size = model.config.image_feature_size
        features = torch.zeros(len(self), 1 + views, size, dtype=torch.float16)
        present = torch.zeros(len(self), dtype=torch.bool)
        chosen = torch.tensor(
            [[(post + view) % len(kinds) for view in range(views)] for post in range(len(self))],
            dtype=torch.long,
        ).reshape(len(self), views)
        # Depthwise convolutions run about twice as fast on channels-last weights.
        model.image_encoder.to(memory_format=torch.channels_last)
        make = partial(self._view_pixels, kinds=kinds, chosen=chosen, seed=seed)
        with_image = self.image_present.nonzero().flatten().tolist()
        model.eval()
        with ThreadPoolExecutor(available_cores()) as pool:
            step = max(1, 64 // (1 + views))
            for start in tqdm(range(0, len(with_image), step), description, unit="batch"):
                batch = with_image[start : start + step]
                found = [
                    (i, x)
                    for i, x in zip(batch, pool.map(make, batch), strict=True)
                    if x is not None
                ]
                if not found:
                    continue
                stacked = torch.from_numpy(np.concatenate([x for _, x in found]))
                encoded = encode_pixels(model, self.processor, stacked)
                rows = torch.tensor([i for i, _ in found])
                features[rows] = encoded.reshape(len(found), 1 + views, size).half().cpu()
                present[rows] = True
        self.use_views(ImageViews(features, chosen, present, tuple(kinds)))

    def use_views(self, views: ImageViews) -> None:
        """Take image features that were encoded before."""
        self.views = views
        self.image_present = views.present

    def _view_pixels(
        self, index: int, kinds: Sequence[str], chosen: Tensor, seed: int
    ) -> np.ndarray | None:
        image = self.pixels(index)
        if image is None:
            return None
        rng = np.random.default_rng((seed, index))
        damaged = [IMAGE_DAMAGES[kinds[k]](image, rng) for k in chosen[index].tolist()]
        return np.stack([image, *damaged])


@dataclass(frozen=True)
class FeatureBatch:
    """Raw features of a disrupted batch.

    text (present texts, size), image (present images, size), present (batch, 2) bool,
    text_damaged, image_damaged (batch,) bool.
    """

    text: Tensor | None
    image: Tensor | None
    present: Tensor
    text_damaged: Tensor
    image_damaged: Tensor


def encode_pixels(model: DRFModel, processor: DRFProcessor, pixels: Tensor) -> Tensor:
    """Raw image features without gradient; uint8 (n, 3, h, w) -> (n, size)."""
    with torch.no_grad(), autocast(model.device):
        inputs = processor.normalise(pixels.to(model.device))
        return model.encode_image(inputs.contiguous(memory_format=torch.channels_last))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; nothing on a CPU, where emulated bf16 is a trap."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def encode_batch(
    model: DRFModel,
    corpus: TrainingCorpus,
    index: Tensor,
    disruptions: Sequence[Disruption],
    rng: Generator,
    pool: ThreadPoolExecutor | None = None,
) -> FeatureBatch:
    """Disrupt and encode a batch of posts.

    index (batch,): rows of the corpus. With cached views images come from them, else they
    are decoded on the pool and encoded, with gradient where the encoder learns. A discard
    never takes a post's only modality.
    """
    rows = index.tolist()
    token_ids = [
        None if text is None else corpus.processor.token_ids(text, corpus.max_tokens)
        for text in (
            corpus.text(i, _kind(d.text, bool(corpus.image_present[i])), rng)
            for i, d in zip(rows, disruptions, strict=True)
        )
    ]
    texts = torch.tensor([ids is not None for ids in token_ids])
    kinds = [_kind(d.image, bool(t)) for d, t in zip(disruptions, texts.tolist(), strict=True)]
    discarded = torch.tensor([kind == DISCARD for kind in kinds])
    images = corpus.image_present[index] & ~discarded
    device = model.device
    if corpus.views is not None:
        image, images = _cached_images(corpus.views, index, kinds, images, rng)
    else:
        image, images = _decoded_images(model, corpus, index, kinds, images, rng, pool)
    text_damaged = torch.tensor([d.text not in (None, DISCARD) for d in disruptions])
    # A text lost in damage, or discarded beside an image that does not decode, may leave a
    # post with nothing: such a row keeps its text whole.
    for position in (~texts & ~images).nonzero().flatten().tolist():
        token_ids[position] = corpus.processor.token_ids(
            corpus.posts[rows[position]].text or "", corpus.max_tokens
        )
        texts[position] = True
        text_damaged[position] = False
    inputs = corpus.processor.collate(token_ids, [None] * len(rows), device)
    with autocast(device):
        text = (
            None
            if inputs["input_ids"] is None
            else model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        )
    return FeatureBatch(
        text,
        None if image is None else image.to(device),
        torch.stack([texts, images], 1).to(device),
        text_damaged,
        torch.tensor([k not in (None, DISCARD) for k in kinds]),
    )


def _kind(kind: str | None, other_present: bool) -> str | None:
    return None if kind == DISCARD and not other_present else kind


def _cached_images(
    views: ImageViews, index: Tensor, kinds: Sequence[str | None], present: Tensor, rng: Generator
) -> tuple[Tensor | None, Tensor]:
    chosen = torch.zeros(len(index), dtype=torch.long)
    for position, kind in enumerate(kinds):
        if kind in (None, DISCARD):
            continue
        fitting = (views.kinds[index[position]] == views.names.index(kind)).nonzero().flatten()
        # Not every post has a view of every kind: any other damage of it serves as well.
        choices = fitting.tolist() or list(range(views.kinds.shape[1]))
        chosen[position] = 1 + choices[rng.integers(len(choices))]
    features = views.features[index, chosen][present].float()
    return (features if len(features) else None), present


def _decoded_images(
    model: DRFModel,
    corpus: TrainingCorpus,
    index: Tensor,
    kinds: Sequence[str | None],
    present: Tensor,
    rng: Generator,
    pool: ThreadPoolExecutor | None,
) -> tuple[Tensor | None, Tensor]:
    wanted = present.nonzero().flatten().tolist()
    load = pool.map if pool is not None else map
    found = dict(zip(wanted, load(corpus.pixels, [int(index[i]) for i in wanted]), strict=True))
    pixels = []
    present = present.clone()
    for position, image in found.items():
        if image is None:
            present[position] = False
            continue
        kind = kinds[position]
        pixels.append(image if kind is None else IMAGE_DAMAGES[kind](image, rng))
    if not pixels:
        return None, present
    stacked = torch.from_numpy(np.stack(pixels)).to(model.device)
    inputs = corpus.processor.normalise(stacked).contiguous(memory_format=torch.channels_last)
    with autocast(model.device):
        return model.encode_image(inputs), present
