"""Raw features of posts drawn from a corpus, encoded where the posts are read.

Which posts are drawn hangs on where they lie, and what they become on each post alone: neither on
how an engine spreads the work, nor on how often it does a part of it again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from drf_core.annotator import Annotator, PreparedPost
from drf_core.corpus.views import FeatureViews
from drf_core.runtimes.choice import available_cores
from drf_core.training.adapting import FOLDS
from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import shared_fetcher
from pipelines.annotate.job import JobOptions, Shard
from pipelines.annotate.work.prepare import prepare_post
from pipelines.annotate.work.rows import no_post_id
from pipelines.annotate.work.stream import FETCH_AHEAD, read_shards


@dataclass(frozen=True)
class _Waiting:
    """A post that was drawn. content: hash of its text and image, or of the image's address."""

    content: bytes
    source_file: str
    row: int
    text: str | None


@dataclass(frozen=True)
class SampledPost:
    """A post's raw features, float16 (size,) as training keeps them; None where it has none."""

    content: bytes
    source_file: str
    row: int
    text: np.ndarray | None
    image: np.ndarray | None


def is_drawn(source_file: str, row: int, share: float) -> bool:
    """Whether a post is among those drawn; share: of all posts."""
    return int.from_bytes(_digest(source_file.encode(), str(row).encode()), "big") < share * 2**64


def encode_drawn(
    shards: Sequence[Shard], options: JobOptions, share: float, annotator: Annotator
) -> Iterator[SampledPost]:
    """Yield the features of the posts of these shards that are drawn.

    Raises an error of DRF's for a file that cannot be read or changed since it was planned.
    """
    rows = options.rows
    arrivals: Arrivals[_Waiting] = Arrivals(
        shared_fetcher(
            rows.image_uri_prefixes,
            rows.max_image_bytes,
            options.fetch_concurrency,
            options.fetch_per_host,
        )
    )

    def prepare(post: _Waiting, image: bytes | None, reason: str | None) -> PreparedPost | None:
        prepared = prepare_post(annotator, rows, post.text, image, reason)
        return prepared if isinstance(prepared, PreparedPost) else None

    def encoded(
        posts: Sequence[tuple[_Waiting, bytes | None, str | None]],
    ) -> Iterator[SampledPost]:
        for (post, _, _), prepared in zip(
            posts, pool.map(prepare, *zip(*posts, strict=True)) if posts else (), strict=True
        ):
            if prepared is not None:
                # Alone: what a batch holds beside a post shows in its features' last digits.
                text, image = annotator.encode([prepared])
                yield SampledPost(
                    post.content, post.source_file, post.row, _half(text), _half(image)
                )

    pool = ThreadPoolExecutor(available_cores(), "decode")
    try:
        for _, of_file in itertools.groupby(shards, key=lambda shard: shard.path):
            _, batches = read_shards(tuple(of_file), rows)
            for shard, first, batch in batches:
                there = []
                columns = (batch.column(name) for name in ("post_id", "text", "image", "image_uri"))
                for row, (post_id, text, image, uri) in enumerate(
                    zip(*columns, strict=True), first
                ):
                    if not is_drawn(shard.source_file, row, share) or no_post_id(post_id.as_py()):
                        continue
                    words, data, address = text.as_py(), image.as_py(), uri.as_py()
                    content = _digest((words or "").encode(), data or (address or "").encode())
                    post = _Waiting(content, shard.source_file, row, words)
                    if address and not data:
                        arrivals.add(address, post)
                    else:
                        there.append((post, data, None))
                yield from encoded(there)
                while len(arrivals) > FETCH_AHEAD:
                    came = arrivals.take(wait=True)
                    yield from encoded([(p, got.content, got.reason) for p, got in came])
        for came in arrivals.rest():
            yield from encoded([(post, got.content, got.reason) for post, got in came])
    finally:
        arrivals.close()
        pool.shutdown(cancel_futures=True)


def _half(features: np.ndarray | None) -> np.ndarray | None:
    return None if features is None else features[0].astype(np.float16)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def as_views(
    posts: Sequence[SampledPost], sizes: dict[str, int]
) -> tuple[dict[str, FeatureViews], torch.Tensor]:
    """Return the posts as views, in an order that is chance's and always the same, and their folds.

    sizes: of raw features, by modality. Folds (posts,) int64 hang on the posts' content.
    """
    ordered = sorted(posts, key=lambda post: (post.content, post.source_file, post.row))
    views = {}
    for m, size in sizes.items():
        features = torch.zeros(len(ordered), 1, size, dtype=torch.float16)
        present = torch.zeros(len(ordered), 1, dtype=torch.bool)
        for number, post in enumerate(ordered):
            if (row := getattr(post, m)) is not None:
                features[number, 0] = torch.from_numpy(row)
                present[number, 0] = True
        views[m] = FeatureViews(features, present, (None,))
    folds = torch.tensor([int.from_bytes(post.content, "big") % FOLDS for post in ordered])
    return views, folds
