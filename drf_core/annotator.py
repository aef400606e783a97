"""Annotating posts with a checkpoint: prepare one post, predict a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from drf_core.decoding.decoders import Decoded, Decoders, Item
from drf_core.decoding.images import decode_image
from drf_core.decoding.preparation import ImageLimits
from drf_core.decoding.texts import text_reason
from drf_core.decoding.tokens import TEXT_WINDOWS
from drf_core.runtimes.choice import available_cores
from drf_core.runtimes.interface import ReadyModel, Runtime
from drf_core.runtimes.serving import serve
from schemas.annotations import MODALITIES
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from schemas.reasons import ModalityReason

if TYPE_CHECKING:
    from drf_core.decoding.preparation import LightPreparer
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor
    from drf_core.runtimes.torch_model import TorchModel

# What is of low quality and resembles no kind of damage: another language, code, noise, a chart.
UNFAMILIAR = "unfamiliar"


@dataclass(frozen=True)
class PreparedPost:
    """A decoded, tokenized post; what is absent is None and has its reason.

    token_ids: in windows, see `DRFProcessor.read_text`; text_share_read: share of the text that
    they hold, None where there is none.
    text_features, image_features: raw features, float32 (size,), where they are known already;
    token_ids or pixels are not needed then.
    """

    token_ids: list[int] | None
    pixels: np.ndarray | None
    text_reason: str | None
    image_reason: str | None
    text_features: np.ndarray | None = None
    image_features: np.ndarray | None = None
    text_share_read: float | None = None

    @property
    def has_text(self) -> bool:
        """Whether its text is usable."""
        return self.token_ids is not None or self.text_features is not None

    @property
    def has_image(self) -> bool:
        """Whether its image is usable."""
        return self.pixels is not None or self.image_features is not None

    @property
    def usable(self) -> bool:
        """Whether there is at least one modality to annotate from."""
        return self.has_text or self.has_image

    @property
    def size(self) -> int:
        """Approximate bytes held."""
        tokens = 8 * len(self.token_ids) if self.token_ids else 0
        return tokens + (self.pixels.nbytes if self.pixels is not None else 0)


@dataclass(frozen=True)
class ModalityPrediction:
    """How far a modality could be trusted.

    state: present, low_quality or recovered. quality in (0, 1]. score: what quality is the rank of,
    without an end, None where recovered (see `QualityEstimator.unbounded_score`). evidence: for
    each label against the mean of all labels, in logits. damage: of low quality, the kind of damage
    that it resembles, or `unfamiliar`; else None. reason: why the modality was not usable as it
    came, None where it was.
    """

    state: str
    quality: float
    score: float | None
    evidence: tuple[float, ...]
    damage: str | None
    reason: str | None


@dataclass(frozen=True)
class Prediction:
    """Sentiment of one post; probabilities in the order of the annotator's labels."""

    label: str
    confidence: float
    probabilities: tuple[float, ...]
    text: ModalityPrediction
    image: ModalityPrediction
    text_share_read: float | None


class Annotator:
    """A checkpoint on a device, ready to predict; `prepare` may be called from any thread.

    ready: its model on a runtime. decoders: child processes in which posts are prepared; by
    default it is done in this one. prior: share of each label that probabilities assume; the
    checkpoint's, unless another is set.
    """

    def __init__(
        self,
        ready: ReadyModel,
        processor: DRFProcessor | LightPreparer,
        decoders: Decoders | None = None,
    ) -> None:
        self.ready = ready
        self.processor: Any = processor
        self.traits = ready.traits
        self.labels = self.traits.labels
        self.prior = self.traits.prior
        self._largest_batch: int | None = None
        self._decoders = decoders

    @property
    def model(self) -> DRFModel:
        """The model itself, where torch runs it."""
        return cast("TorchModel", self.ready).model

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        device: str = "auto",
        threads: int = 0,
        runtime: str = "torch",
        cache: str | None = None,
        decode_seconds: float | None = None,
    ) -> Annotator:
        """Load a checkpoint folder.

        device: auto (a GPU where there is one), cpu or cuda. threads: of this process's
        computing, 0 for one per core this process may use. runtime: what runs it (see
        `choose_runtime`). cache: folder that keeps converted models for the next start.
        decode_seconds: prepare posts in child processes, so long at most each text or image.
        Raises DeviceError for a device or runtime that is asked for and absent, and
        CheckpointError for weights that are damaged, missing or do not fit.
        """
        served = serve(folder, runtime, device, threads or available_cores(), cache)
        decoders = None
        if decode_seconds is not None:
            decoders = Decoders(served.preparation, decode_seconds)
            decoders.start(available_cores())
        return cls(served.model, served.processor, decoders)

    @property
    def batch_size(self) -> int:
        """Posts that keep its device busy when they are predicted together."""
        return self.ready.batch_size

    @property
    def runtime(self) -> Runtime:
        """What encodes, with which arithmetic, and where."""
        return self.ready.runtime

    def prepare(
        self,
        text: str | None,
        image: bytes | memoryview | None,
        *,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        image_reason: str | None = None,
        image_formats: Sequence[str] = (),
    ) -> PreparedPost:
        """Decode and tokenize one post.

        image: the encoded file; max_image_pixels, max_image_bytes: limits above which it is
        too_large. image_reason: why an image never arrived (not_allowed, fetch_failed).
        image_formats: opened beside the usual ones, of MORE_FORMATS.
        Raises MemoryError where the machine has too little.
        """
        if self._decoders is not None:
            limits = ImageLimits(max_image_pixels, max_image_bytes, tuple(image_formats))
            return _prepare_in(self._decoders, text, image, image_reason, limits)
        no_text = text_reason(text)
        ids = share = None
        if no_text is None and text is not None:
            most = self.traits.max_text_tokens
            ids, share = self.processor.read_text(text, most, TEXT_WINDOWS)
        pixels = None
        if image_reason is None:
            picture, image_reason = decode_image(
                image,
                max_pixels=max_image_pixels,
                max_bytes=max_image_bytes,
                target=self.processor.target,
                more_formats=image_formats,
            )
            pixels = None if picture is None else self.processor.pixels(picture)
        return PreparedPost(ids, pixels, no_text, image_reason, text_share_read=share)

    def share_read(self, text: str) -> float:
        """Share of a text that is read, in [0, 1]."""
        most = self.traits.max_text_tokens
        return self.processor.read_text(text, most, TEXT_WINDOWS)[1]

    def predict(self, posts: Sequence[PreparedPost]) -> list[Prediction]:
        """Annotate usable posts as one batch, halved as often as memory demands.

        A size that once ran out of memory is not tried again. Raises ValueError for a post
        with no modality, and the device's error when a single post does not fit.
        """
        limit = self._largest_batch or len(posts)
        predictions: list[Prediction] = []
        start = 0
        while start < len(posts):
            batch = posts[start : start + limit]
            try:
                predictions += self._predict(batch)
            except (MemoryError, RuntimeError) as error:
                if len(batch) == 1 or not _out_of_memory(error):
                    raise
                self._largest_batch = limit = len(batch) // 2
            else:
                start += len(batch)
                continue
            # Outside the handler: the error holds the failed batch's tensors alive.
            if self.runtime.device == "cuda":
                import torch

                torch.cuda.empty_cache()
        return predictions

    def encode_texts(self, token_ids: Sequence[list[int]]) -> np.ndarray:
        """Raw features of texts (`PreparedPost.token_ids`), the mean over each one's windows.

        token_ids: at least one. Returns (texts, raw text size) float32, in the order given.
        """
        most = self.traits.max_text_tokens
        windows = [ids[i : i + most] for ids in token_ids for i in range(0, len(ids), most)]
        raw = self.ready.encode_texts(windows)
        if len(windows) == len(token_ids):
            return raw
        # By their tokens, or a last window of one word would count as much as a full one.
        weights = np.array([len(ids) for ids in windows], np.float32)[:, None]
        counts = [len(range(0, len(ids), most)) for ids in token_ids]
        firsts = np.cumsum([0, *counts[:-1]])
        return np.add.reduceat(raw * weights, firsts) / np.add.reduceat(weights, firsts)

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Raw features of images (`PreparedPost.pixels`, uint8 (3, h, w) each).

        pixels: at least one. Returns (images, raw image size) float32, in the order given.
        """
        return self.ready.encode_images(pixels)

    def conclude(
        self, posts: Sequence[PreparedPost], text: np.ndarray | None, image: np.ndarray | None
    ) -> list[Prediction]:
        """Predictions from features that are encoded already.

        text (texts, raw text size), image (images, raw image size): of the posts that have one, in
        their order; None where none has. Raises ValueError for a post with no modality.
        """
        if not all(post.usable for post in posts):
            raise ValueError("every post needs at least one modality")
        present = np.array([[post.has_text, post.has_image] for post in posts])
        said = self.ready.conclude(text, image, present)
        odds = np.exp(said.logits - said.logits.max(-1, keepdims=True)) * np.array(self.prior)
        probabilities = odds / odds.sum(-1, keepdims=True)
        evidence = said.evidence - said.evidence.mean(-1, keepdims=True)
        return [
            self._prediction(
                post,
                probabilities[row],
                said.quality[row],
                said.score[row],
                evidence[row],
                said.damage[row],
            )
            for row, post in enumerate(posts)
        ]

    def encode(self, posts: Sequence[PreparedPost]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Raw features of texts (texts, raw size) and images (images, raw size).

        Of the posts that have one, in their order; None where none has. Features that a post
        brings along are not encoded.
        """
        texts = [post for post in posts if post.has_text]
        images = [post for post in posts if post.has_image]
        return (
            self._completed(
                [post.text_features for post in texts],
                [p.token_ids for p in texts if p.text_features is None and p.token_ids is not None],
                self.encode_texts,
            ),
            self._completed(
                [post.image_features for post in images],
                [p.pixels for p in images if p.image_features is None and p.pixels is not None],
                self.encode_images,
            ),
        )

    def _completed(
        self,
        known: Sequence[np.ndarray | None],
        unknown: Sequence[Any],
        encode: Callable[[Sequence[Any]], np.ndarray],
    ) -> np.ndarray | None:
        """Features, known ones in their places and the rest encoded."""
        encoded = encode(unknown) if unknown else None
        if encoded is None or len(encoded) < len(known):
            rows = iter(() if encoded is None else encoded)
            stacked = [next(rows) if one is None else one for one in known]
            return np.stack(stacked) if stacked else None
        return encoded

    def _predict(self, posts: Sequence[PreparedPost]) -> list[Prediction]:
        return self.conclude(posts, *self.encode(posts))

    def _prediction(
        self,
        post: PreparedPost,
        probabilities: np.ndarray,
        quality: np.ndarray,
        score: np.ndarray,
        evidence: np.ndarray,
        damage: np.ndarray,
    ) -> Prediction:
        best = int(probabilities.argmax())
        modalities = {}
        for column, m in enumerate(MODALITIES):
            reason = post.text_reason if m == "text" else post.image_reason
            low = quality[column] < self.traits.quality_threshold
            state = "recovered" if reason else "low_quality" if low else "present"
            modalities[m] = ModalityPrediction(
                state,
                float(quality[column]),
                None if reason else float(score[column]),
                tuple(float(one) for one in evidence[column]),
                self._named(m, int(damage[column])) if state == "low_quality" else None,
                reason,
            )
        return Prediction(
            self.labels[best],
            float(probabilities[best]),
            tuple(float(p) for p in probabilities),
            modalities["text"],
            modalities["image"],
            post.text_share_read,
        )

    def _named(self, modality: str, kind: int) -> str:
        kinds = self.traits.trained_kinds.get(modality, ())
        return kinds[kind] if 0 <= kind < len(kinds) else UNFAMILIAR


def _prepare_in(
    decoders: Decoders,
    text: str | None,
    image: bytes | memoryview | None,
    image_reason: str | None,
    limits: ImageLimits,
) -> PreparedPost:
    items = {}
    if text is not None:
        items["text"] = Item("text", text.encode("utf-8", "replace"))
    if image and image_reason is None:
        items["image"] = Item("image", image)
    found = dict(zip(items, decoders.decode(list(items.values()), limits), strict=True))
    missing = Decoded(None, ModalityReason.MISSING)
    words, picture = found.get("text", missing), found.get("image", missing)
    return PreparedPost(
        None if words.array is None else words.array.tolist(),
        picture.array,
        words.reason,
        image_reason or picture.reason,
        text_share_read=words.share_read,
    )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
