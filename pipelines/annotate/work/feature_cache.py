"""The feature cache: no encoder sees a text or an image a second time, in whatever run.

Features are found by the content of the text or image, among those of the same encoder (its
weights and preprocessing, not the rest of the checkpoint), runtime and limits. So annotating
again with another head on the same encoders, or a night that overlaps with the last one, neither
decodes nor encodes what is known.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drf_core.annotator import Annotator, PreparedPost
from drf_core.checkpoint import encoder_revisions
from drf_core.decoding import PREPARATION_VERSION
from drf_core.runtimes.interface import Runtime
from pipelines.annotate.job import JobOptions
from pipelines.annotate.work.feature_files import KEY_BYTES, FeatureFiles
from pipelines.storage.checkpoints import resolve_model
from pipelines.storage.files import open_store, to_json


@dataclass(frozen=True)
class KeyedPost(PreparedPost):
    """A prepared post that knows under which keys its features are kept."""

    text_key: bytes | None = None
    image_key: bytes | None = None


class FeatureCache:
    """Features of both modalities; safe to use from many threads."""

    def __init__(self, text: FeatureFiles, image: FeatureFiles) -> None:
        self._text = text
        self._image = image
        self._counts = Counter[bool]()
        self._counting = threading.Lock()

    def take_counts(self) -> tuple[int, int]:
        """How many texts and images were looked for since the last call, and found."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        return counts.total(), counts[True]

    def refresh(self) -> None:
        """Take notice of what others have written."""
        self._text.refresh()
        self._image.refresh()

    def flush(self) -> None:
        """Write what was added."""
        self._text.flush()
        self._image.flush()

    def prepare(
        self,
        annotator: Annotator,
        text: str | None,
        image: bytes | memoryview | None,
        image_reason: str | None,
        **limits: Any,
    ) -> PreparedPost:
        """`Annotator.prepare`, which gets to see only what is not known. limits: as it takes."""
        text_key = None if text is None else _key(text.encode())
        image_key = None if image is None or image_reason is not None else _key(image)
        text_features = None if text_key is None else self._text.find(text_key)
        image_features = None if image_key is None else self._image.find(image_key)
        looked_for = ((text_key, text_features), (image_key, image_features))
        with self._counting:
            self._counts.update(found is not None for key, found in looked_for if key is not None)
        prepared = annotator.prepare(
            text if text_features is None else None,
            image if image_features is None else None,
            image_reason=image_reason,
            **limits,
        )
        return KeyedPost(
            prepared.token_ids,
            prepared.pixels,
            prepared.text_reason if text_features is None else None,
            prepared.image_reason if image_features is None else None,
            text_features,
            image_features,
            prepared.text_share_read if text_features is None else annotator.share_read(text or ""),
            text_key,
            image_key,
        )

    def encode(self, annotator: Annotator, posts: Sequence[PreparedPost]) -> list[PreparedPost]:
        """Return the posts with their features, of which new ones are kept."""
        text, image = annotator.encode(posts)
        texts = iter([] if text is None else text)
        images = iter([] if image is None else image)
        encoded: list[PreparedPost] = []
        for post in posts:
            text_features = next(texts) if post.has_text else None
            image_features = next(images) if post.has_image else None
            if isinstance(post, KeyedPost):
                for files, key, known, new in (
                    (self._text, post.text_key, post.text_features, text_features),
                    (self._image, post.image_key, post.image_features, image_features),
                ):
                    if key is not None and known is None and new is not None:
                        files.add(key, new)
            encoded.append(
                dataclasses.replace(
                    post,
                    token_ids=None,
                    pixels=None,
                    text_features=text_features,
                    image_features=image_features,
                )
            )
        return encoded


def open_cache(options: JobOptions, annotator: Annotator) -> FeatureCache | None:
    """The cache of a run on this worker, None where none is asked for.

    Raises OutputError where it cannot be read.
    """
    if options.feature_cache is None:
        return None
    rows = options.rows
    limits = (rows.max_image_pixels, rows.max_image_bytes, *rows.image_formats)
    raw = annotator.traits.raw_sizes
    sizes = (raw["text"], raw["image"])
    model, revision = options.model, options.model_revision
    cache = _cache(options.feature_cache, model, revision, annotator.runtime, sizes, limits)
    cache.refresh()
    return cache


@functools.lru_cache(maxsize=2)
def _cache(
    url: str,
    model: str,
    revision: str,
    runtime: Runtime,
    sizes: tuple[int, int],
    limits: tuple[int | str, ...],
) -> FeatureCache:
    """One for all work units of a process: its index is read once. revision: of the model."""
    of_encoder = encoder_revisions(resolve_model(model))
    depends_on = {
        "text": [of_encoder["text"], str(runtime), PREPARATION_VERSION],
        "image": [of_encoder["image"], str(runtime), PREPARATION_VERSION, *limits],
    }
    store = open_store(url)
    text, image = (
        FeatureFiles(store, f"{m}-{hashlib.sha256(to_json(on)).hexdigest()[:16]}", size)
        for (m, on), size in zip(depends_on.items(), sizes, strict=True)
    )
    return FeatureCache(text, image)


def _key(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()[:KEY_BYTES]
