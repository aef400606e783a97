"""Annotating posts with a checkpoint: prepare one post, predict a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from drf_core.decoding.decoders import Decoded, Decoders, Item
from drf_core.decoding.images import decode_image
from drf_core.decoding.preparation import ImageLimits, LightPreparer
from drf_core.decoding.texts import text_reason
from drf_core.decoding.tokens import TEXT_WINDOWS
from drf_core.model.input_statistics import image_statistics
from drf_core.runtimes.choice import available_cores
from drf_core.runtimes.interface import Encoders, Runtime
from drf_core.runtimes.serving import serve
from drf_core.runtimes.torch_encoders import TorchEncoders
from schemas.annotations import MODALITIES
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from schemas.reasons import ModalityReason

if TYPE_CHECKING:
    from drf_core.model.head import DRFHead
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

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

    state: present, low_quality or recovered. quality in (0, 1]. evidence: for each label against
    the mean of all labels, in logits. damage: of low quality, the kind of damage
    that it resembles, or `unfamiliar`; else None. reason: why the modality was not usable as it
    came, None where it was.
    """

    state: str
    quality: float
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

    encoders: what encodes texts and images; the model's own, run by torch, by default.
    decoders: child processes in which posts are prepared; by default it is done in this one.
    """

    def __init__(
        self,
        model: DRFModel | DRFHead,
        processor: DRFProcessor | LightPreparer,
        encoders: Encoders | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.device = model.device
        self.labels = model.config.labels
        self._encoders: Encoders = encoders or TorchEncoders(self.model, cast(Any, processor))
        self._largest_batch: int | None = None
        self._decoders = decoders

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
        computing, 0 for one per core this process may use. runtime: what encodes (see
        `choose_runtime`); with another than torch, the model is without its own encoders.
        cache: folder that keeps converted encoders for the next start. decode_seconds: prepare
        posts in child processes, so long at most each text or image. Raises DeviceError for
        a device or runtime that is asked for and absent, and CheckpointError for weights that
        are damaged, missing or do not fit.
        """
        threads = threads or available_cores()
        torch.set_num_threads(threads)
        served = serve(folder, runtime, device, threads, cache)
        decoders = None
        if decode_seconds is not None:
            decoders = Decoders(served.preparation, decode_seconds)
            decoders.start(available_cores())
        return cls(served.model, served.processor, served.encoders, decoders)

    @property
    def batch_size(self) -> int:
        """Posts per forward that fill its device."""
        return 256 if self.device.type == "cuda" else 64

    @property
    def runtime(self) -> Runtime:
        """What encodes, with which arithmetic, and where."""
        return self._encoders.runtime

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
            most = self.model.config.max_text_tokens
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
        most = self.model.config.max_text_tokens
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
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if len(batch) == 1 or not _out_of_memory(error):
                    raise
                self._largest_batch = limit = len(batch) // 2
            else:
                start += len(batch)
                continue
            # Outside the handler: the error holds the failed batch's tensors alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return predictions

    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts (`PreparedPost.token_ids`), the mean over each one's windows.

        token_ids: at least one. Returns (texts, raw text size) float32, in the order given.
        """
        most = self.model.config.max_text_tokens
        windows = [ids[i : i + most] for ids in token_ids for i in range(0, len(ids), most)]
        padded = [
            pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.device)
            for rows in (windows, [[1] * len(ids) for ids in windows])
        ]
        described = self.model.token_statistics(*padded)
        raw = torch.cat([self._encoders.encode_texts(windows), described], 1)
        if len(windows) == len(token_ids):
            return raw
        owner = torch.tensor(
            [number for number, ids in enumerate(token_ids) for _ in range(0, len(ids), most)],
            device=self.device,
        )
        # By their tokens, or a last window of one word would count as much as a full one.
        weights = torch.tensor([float(len(ids)) for ids in windows], device=self.device)
        total = torch.zeros(len(token_ids), device=self.device).index_add_(0, owner, weights)
        summed = torch.zeros(len(token_ids), raw.shape[1], device=self.device)
        return summed.index_add_(0, owner, raw * weights[:, None]) / total[:, None]

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images (`PreparedPost.pixels`, uint8 (3, h, w) each).

        pixels: at least one. Returns (images, raw image size) float32, in the order given.
        """
        stacked = torch.from_numpy(np.stack(pixels)).to(self.device)
        return torch.cat([self._encoders.encode_images(pixels), image_statistics(stacked)], 1)

    @torch.inference_mode()
    def conclude(
        self, posts: Sequence[PreparedPost], text: Tensor | None, image: Tensor | None
    ) -> list[Prediction]:
        """Predictions from features that are encoded already.

        text (texts, raw text size), image (images, raw image size): of the posts that have one, in
        their order; None where none has. Raises ValueError for a post with no modality.
        """
        if not all(post.usable for post in posts):
            raise ValueError("every post needs at least one modality")
        present = torch.tensor(
            [[post.has_text, post.has_image] for post in posts],
            device=self.device,
        )
        output = self.model.forward_features(text, image, present)
        probabilities = output.logits.float().softmax(-1).cpu().numpy()
        quality, damage = output.quality.float().cpu().numpy(), output.damage.cpu().numpy()
        evidence = (output.evidence - output.evidence.mean(-1, keepdim=True)).float().cpu().numpy()
        return [
            self._prediction(post, probabilities[row], quality[row], evidence[row], damage[row])
            for row, post in enumerate(posts)
        ]

    def encode(self, posts: Sequence[PreparedPost]) -> tuple[Tensor | None, Tensor | None]:
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
        encode: Callable[[Sequence[Any]], Tensor],
    ) -> Tensor | None:
        """Features, known ones in their places and the rest encoded."""
        encoded = encode(unknown) if unknown else None
        if encoded is None or len(encoded) < len(known):
            rows = iter(() if encoded is None else encoded)
            stacked = [
                next(rows) if one is None else torch.from_numpy(one.copy()).to(self.device)
                for one in known
            ]
            return torch.stack(stacked) if stacked else None
        return encoded

    def _predict(self, posts: Sequence[PreparedPost]) -> list[Prediction]:
        return self.conclude(posts, *self.encode(posts))

    def _prediction(
        self,
        post: PreparedPost,
        probabilities: np.ndarray,
        quality: np.ndarray,
        evidence: np.ndarray,
        damage: np.ndarray,
    ) -> Prediction:
        best = int(probabilities.argmax())
        modalities = {}
        for column, m in enumerate(MODALITIES):
            reason = post.text_reason if m == "text" else post.image_reason
            low = quality[column] < self.model.config.quality_threshold
            state = "recovered" if reason else "low_quality" if low else "present"
            modalities[m] = ModalityPrediction(
                state,
                float(quality[column]),
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
        kinds = (self.model.config.trained_kinds or {}).get(modality, [])
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
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
