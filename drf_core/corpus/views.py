"""Views of a corpus: the raw features of every post, as it came and damaged in several kinds.

Encoded once, they serve any number of disruptions, epochs and models that share a frozen
encoder. The damage to a post depends on seed, kind and post alone, so that it is the same in
every cell of an evaluation and for every model compared.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from drf_core.corpus.disruption import DISCARD, IMAGE_DAMAGES, SWAPPED, Disruption
from drf_core.corpus.posts import TrainingCorpus
from drf_core.model.input_statistics import image_statistics
from drf_core.model.modeling_drf import DRFModel
from drf_core.runtimes.choice import available_cores
from drf_core.runtimes.frozen_encoder import frozen_image_encoder, frozen_text_encoder
from drf_core.write_whole import write_whole
from schemas.annotations import MODALITIES

# Of the features of so many posts, memory is taken; texts are sorted by length among them.
_POSTS_AT_ONCE = 1024


@dataclass(frozen=True)
class FeatureViews:
    """Raw features of one modality.

    features (posts, views, size) float16; present (posts, views) bool; kinds (views,): the
    damage of each view, None for the first, which is undisrupted. A kind may have several.
    """

    features: Tensor
    present: Tensor
    kinds: tuple[str | None, ...]

    def pick(
        self, index: Tensor, kinds: Sequence[str | None], rng: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """One view of each post at index (batch,), of the kind wanted for it.

        rng draws among several views of a kind; without it the first is taken. Returns
        features (batch, size) float32 and present (batch,) bool, false where discarded or
        absent. Raises KeyError for a kind that was not encoded.
        """
        known: dict[str | None, list[int]] = {DISCARD: []}
        for view, name in enumerate(self.kinds):
            known.setdefault(name, []).append(view)
        views = []
        for kind in kinds:
            if kind not in known:
                raise KeyError(f"no view was encoded of the kind {kind!r}")
            found = known[kind]
            choice = 0 if rng is None or len(found) < 2 else int(rng.integers(len(found)))
            views.append(found[choice] if found else 0)
        chosen = torch.tensor(views, dtype=torch.long)
        kept = torch.tensor([kind != DISCARD for kind in kinds], dtype=torch.bool)
        return self.features[index, chosen].float(), self.present[index, chosen] & kept

    def rows(self, index: Tensor) -> FeatureViews:
        """The views of some posts."""
        return FeatureViews(self.features[index], self.present[index], self.kinds)


@dataclass(frozen=True)
class PickedFeatures:
    """Raw features of disrupted posts; columns are text, image.

    text (present texts, size), image (present images, size), None where there is none;
    present (batch, 2) bool; damaged (batch, 2) bool, true where damaged and present.
    """

    text: Tensor | None
    image: Tensor | None
    present: Tensor
    damaged: Tensor


def pick_features(
    views: dict[str, FeatureViews],
    index: Tensor,
    disruptions: Sequence[Disruption],
    rng: Generator | None = None,
) -> PickedFeatures:
    """Features of the posts at index (batch,), each under its own disruption.

    A post that its disruption would leave with nothing stays as it came.
    """
    wanted = [disruption.kinds() for disruption in disruptions]
    picked = {
        m: views[m].pick(index, [kinds[column] for kinds in wanted], rng)
        for column, m in enumerate(MODALITIES)
    }
    lost = ~torch.stack([picked[m][1] for m in MODALITIES], 1).any(1)
    features, rows, damaged = {}, [], []
    for column, m in enumerate(MODALITIES):
        found, there = picked[m]
        found[lost], there[lost] = views[m].pick(index[lost], [None] * int(lost.sum()))
        features[m] = found[there] if bool(there.any()) else None
        rows.append(there)
        changed = torch.tensor([kinds[column] is not None for kinds in wanted], dtype=torch.bool)
        damaged.append(there & changed & ~lost)
    return PickedFeatures(
        features["text"], features["image"], torch.stack(rows, 1), torch.stack(damaged, 1)
    )


def encode_views(
    model: DRFModel,
    corpus: TrainingCorpus,
    modality: str,
    kinds: Sequence[str],
    seed: int,
    path: Path | None = None,
) -> FeatureViews:
    """Encode one modality of every post, undisrupted and in each of the kinds (repeats allowed).

    path: of the file that is to hold the features, None to hold them in memory. Raises OSError
    where the disk is full.
    """
    model.eval()
    encode = _encode_texts if modality == "text" else _encode_images
    parts = encode(model, corpus, list(kinds), seed)
    if path is None:
        features, present = zip(*parts, strict=True)
        return FeatureViews(torch.cat(features), torch.cat(present), (None, *kinds))
    shape = (len(corpus), 1 + len(kinds), model.config.raw_sizes[modality])
    write_whole(path, lambda unfinished: _write_views(unfinished, shape, parts))
    return read_views(path, kinds)


def read_views(path: Path, kinds: Sequence[str]) -> FeatureViews:
    """Views that `encode_views` left in a file, which is mapped: rows are read when asked for."""
    kept = load_file(path)
    return FeatureViews(kept["features"], kept["present"].bool(), (None, *kinds))


def _write_views(
    path: Path, shape: tuple[int, int, int], parts: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """A safetensors file, as parts of consecutive posts come: its own writer wants them at once."""
    size, flags = 2 * math.prod(shape), math.prod(shape[:2])
    header = json.dumps(
        {
            "features": {"dtype": "F16", "shape": shape, "data_offsets": [0, size]},
            "present": {"dtype": "BOOL", "shape": shape[:2], "data_offsets": [size, size + flags]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        present = []
        for features, there in parts:
            file.write(features.numpy().data)
            present.append(there)
        file.write(torch.cat(present).numpy().data)


def encode_undisrupted(model: DRFModel, corpus: TrainingCorpus) -> dict[str, FeatureViews]:
    """Both modalities of every post as they came."""
    return {m: encode_views(model, corpus, m, [], 0) for m in MODALITIES}


def damage_generator(seed: int, kind: str, copy: int, post: int) -> Generator:
    """The source of chance for one damage to one post."""
    return np.random.default_rng((seed, zlib.crc32(kind.encode()), copy, post))


def _copies(kinds: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each kind with how often it was named before."""
    for position, kind in enumerate(kinds):
        yield kind, kinds[:position].count(kind)


def _partners(present: Sequence[bool], seed: int) -> dict[int, int]:
    """For each post that has the modality another one that has it, none of them twice."""
    posts = np.flatnonzero(present)
    order = np.random.default_rng((seed, zlib.crc32(SWAPPED.encode()))).permutation(posts)
    return dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))


def _next_picture(corpus: TrainingCorpus, partner: dict[int, int], post: int) -> np.ndarray:
    """The partner's image, or where that does not decode its partner's, and so on."""
    other = partner[post]
    while (image := corpus.pixels(other)) is None:
        other = partner[other]
    return image


def _chunks(corpus: TrainingCorpus, name: str) -> Iterator[range]:
    """Consecutive posts, and how far it is with them."""
    with tqdm(total=len(corpus), desc=name, unit=" posts", disable=None) as progress:
        for start in range(0, max(len(corpus), 1), _POSTS_AT_ONCE):
            posts = range(start, min(start + _POSTS_AT_ONCE, len(corpus)))
            yield posts
            progress.update(len(posts))


@torch.no_grad()
def _encode_texts(
    model: DRFModel, corpus: TrainingCorpus, kinds: list[str], seed: int, batch: int = 32
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and presence of the posts, chunk by chunk."""
    views, size = 1 + len(kinds), model.config.raw_sizes["text"]
    partner = _partners(corpus.text_present.tolist(), seed) if SWAPPED in kinds else {}
    encode = frozen_text_encoder(model, int(corpus.text_present.sum()) * views)
    for posts in _chunks(corpus, "texts"):
        token_ids: list[tuple[int, int, list[int]]] = []
        for row, post in enumerate(posts):
            for view, (kind, copy) in enumerate([("", 0), *_copies(kinds)]):
                source = partner.get(post, post) if kind == SWAPPED else post
                damage = kind if kind not in ("", SWAPPED) else None
                text = corpus.text(source, damage, damage_generator(seed, kind, copy, post))
                if text is not None:
                    ids = corpus.processor.token_ids(text, corpus.max_tokens)
                    token_ids.append((row, view, ids))
        features = torch.zeros(len(posts), views, size, dtype=torch.float16)
        present = torch.zeros(len(posts), views, dtype=torch.bool)
        # Texts about equally long together: padding costs as much as words.
        token_ids.sort(key=lambda item: len(item[2]))
        for start in range(0, len(token_ids), batch):
            rows, columns, part = zip(*token_ids[start : start + batch], strict=True)
            inputs = corpus.processor.collate(list(part), [None] * len(part), model.device)
            texts = (inputs["input_ids"], inputs["attention_mask"])
            encoded = torch.cat([encode(*texts), model.token_statistics(*texts)], 1)
            where = torch.tensor(rows), torch.tensor(columns)
            features[where] = encoded.half().cpu()
            present[where] = True
        yield features, present


@torch.no_grad()
def _encode_images(
    model: DRFModel, corpus: TrainingCorpus, kinds: list[str], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and presence of the posts, chunk by chunk."""
    views, size = 1 + len(kinds), model.config.raw_sizes["image"]
    encoder = frozen_image_encoder(model, corpus.processor, int(corpus.image_present.sum()) * views)
    partner = _partners(corpus.image_present.tolist(), seed) if SWAPPED in kinds else {}

    def look(post: int) -> np.ndarray | None:
        image = corpus.pixels(post)
        if image is None:
            return None
        shown = [image]
        for kind, copy in _copies(kinds):
            if kind == SWAPPED:
                shown.append(_next_picture(corpus, partner, post))
            else:
                rng = damage_generator(seed, kind, copy, post)
                shown.append(IMAGE_DAMAGES[kind](image, rng))
        return np.stack(shown)

    step = max(1, 64 // views)
    with ThreadPoolExecutor(available_cores()) as pool:
        for posts in _chunks(corpus, "images"):
            features = torch.zeros(len(posts), views, size, dtype=torch.float16)
            present = torch.zeros(len(posts), views, dtype=torch.bool)
            with_image = [post for post in posts if corpus.image_present[post]]
            for start in range(0, len(with_image), step):
                batch = with_image[start : start + step]
                found = {
                    post - posts.start: pixels
                    for post, pixels in zip(batch, pool.map(look, batch), strict=True)
                    if pixels is not None
                }
                if not found:
                    continue
                stacked = torch.from_numpy(np.concatenate(list(found.values()))).to(model.device)
                encoded = torch.cat([encoder(stacked), image_statistics(stacked)], 1)
                rows = torch.tensor(list(found))
                features[rows] = encoded.reshape(len(found), views, size).half().cpu()
                present[rows] = True
            yield features, present
