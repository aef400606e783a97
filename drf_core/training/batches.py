"""Batches of disrupted posts, encoded for a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from drf_core.corpus.disruption import DISCARD, IMAGE_DAMAGES, Disruption
from drf_core.corpus.posts import TrainingCorpus
from drf_core.corpus.views import FeatureViews, PickedFeatures, pick_features
from drf_core.model.input_statistics import image_statistics
from drf_core.model.modeling_drf import DRFModel
from drf_core.runtimes.precision import autocast, learning_autocast


def batches_of(
    count: int, size: int, rng: np.random.Generator, lengths: np.ndarray | None
) -> list[Tensor]:
    """Batches in random order; with lengths, of posts about equally long, to pad little."""
    order = rng.permutation(count)
    if lengths is not None:
        chunk = 50 * size
        order = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in (order[i : i + chunk] for i in range(0, count, chunk))
            ]
        )
    batches = [torch.from_numpy(order[i : i + size]) for i in range(0, count, size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def encode_batch(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: Mapping[str, FeatureViews],
    index: Tensor,
    disruptions: Sequence[Disruption],
    rng: Generator,
    pool: ThreadPoolExecutor | None = None,
) -> PickedFeatures:
    """Disrupt and encode the posts at index (batch,).

    A modality with views (its encoder is frozen) is taken from them; the other is damaged
    and encoded here, with gradient where its encoder learns. A post that its disruption
    would leave with nothing stays as it came.
    """
    device = model.device
    if len(views) == 2:
        picked = pick_features(dict(views), index, disruptions, rng)
        return PickedFeatures(
            None if picked.text is None else picked.text.to(device),
            None if picked.image is None else picked.image.to(device),
            picked.present.to(device),
            picked.damaged.to(device),
        )
    whole = _left_with_nothing(corpus, index, disruptions)
    wanted = [
        (None, None) if alone else disruption.kinds()
        for alone, disruption in zip(whole, disruptions, strict=True)
    ]
    image, images = _images(model, corpus, views, index, [kinds[1] for kinds in wanted], rng, pool)
    text_features, texts, text_kinds = _texts(
        model, corpus, views, index, [kinds[0] for kinds in wanted], images.tolist(), rng
    )
    damaged = [
        (text_kind not in (None, DISCARD), kinds[1] not in (None, DISCARD))
        for text_kind, kinds in zip(text_kinds, wanted, strict=True)
    ]
    present = torch.stack([texts, images], 1)
    return PickedFeatures(
        None if text_features is None else text_features.to(device),
        None if image is None else image.to(device),
        present.to(device),
        (torch.tensor(damaged) & present).to(device),
    )


def _left_with_nothing(
    corpus: TrainingCorpus, index: Tensor, disruptions: Sequence[Disruption]
) -> list[bool]:
    texts, images = corpus.text_present[index].tolist(), corpus.image_present[index].tolist()
    return [
        not ((text and d.text != DISCARD) or (image and d.image != DISCARD))
        for text, image, d in zip(texts, images, disruptions, strict=True)
    ]


def _texts(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: Mapping[str, FeatureViews],
    index: Tensor,
    kinds: Sequence[str | None],
    pictured: Sequence[bool],
    rng: Generator,
) -> tuple[Tensor | None, Tensor, list[str | None]]:
    """Text features (present, size), where they are present (batch,), and the kinds done."""
    if "text" in views:
        features, present = views["text"].pick(index, kinds, rng)
        lost = ~(present | torch.tensor(pictured))
        features[lost], present[lost] = views["text"].pick(index[lost], [None] * int(lost.sum()))
        kept = [None if gone else kind for kind, gone in zip(kinds, lost.tolist(), strict=True)]
        return (features[present] if bool(present.any()) else None), present, kept
    token_ids: list[list[int] | None] = []
    done = []
    for row, kind, has_image in zip(index.tolist(), kinds, pictured, strict=True):
        text = corpus.text(row, kind, rng)
        # Lost in damage, or discarded beside an image that turned out not to decode.
        if text is None and not has_image:
            kind, text = None, corpus.posts[row].text or ""
        done.append(kind)
        token_ids.append(
            None if text is None else corpus.processor.token_ids(text, corpus.max_tokens)
        )
    present = torch.tensor([ids is not None for ids in token_ids])
    inputs = corpus.processor.collate(token_ids, [None] * len(token_ids), model.device)
    if inputs["input_ids"] is None:
        return None, present, done
    with learning_autocast(model.device) if torch.is_grad_enabled() else autocast(model.device):
        return model.raw_text(inputs["input_ids"], inputs["attention_mask"]), present, done


def _images(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: Mapping[str, FeatureViews],
    index: Tensor,
    kinds: Sequence[str | None],
    rng: Generator,
    pool: ThreadPoolExecutor | None,
) -> tuple[Tensor | None, Tensor]:
    """Image features (present, size) and where they are present (batch,)."""
    if "image" in views:
        features, present = views["image"].pick(index, kinds, rng)
        return (features[present] if bool(present.any()) else None), present
    wanted = [
        position
        for position, kind in enumerate(kinds)
        if kind != DISCARD and bool(corpus.image_present[index[position]])
    ]
    load = pool.map if pool is not None else map
    present = torch.zeros(len(kinds), dtype=torch.bool)
    pixels = []
    for position, image in zip(
        wanted, load(corpus.pixels, [int(index[i]) for i in wanted]), strict=True
    ):
        if image is None:
            continue
        kind = kinds[position]
        pixels.append(image if kind is None else IMAGE_DAMAGES[kind](image, rng))
        present[position] = True
    if not pixels:
        return None, present
    stacked = torch.from_numpy(np.stack(pixels)).to(model.device)
    inputs = corpus.processor.normalise(stacked).contiguous(memory_format=torch.channels_last)
    with autocast(model.device):
        return torch.cat([model.encode_image(inputs), image_statistics(stacked)], 1), present
