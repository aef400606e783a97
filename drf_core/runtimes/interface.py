"""The interface of a model that is ready to run, and what it says of itself; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from drf_core.decoding.preparation import LightPreparer, Preparation
    from drf_core.model.configuration_drf import DRFConfig
    from drf_core.model.processing_drf import DRFProcessor


@dataclass(frozen=True)
class Runtime:
    """What encodes, with which arithmetic, and where.

    make: torch or openvino. precision: f32 or bf16. device: cpu or cuda. note: why it is
    not what would have been chosen first, None where it is.
    """

    make: str
    precision: str
    device: str
    note: str | None = None

    def __str__(self) -> str:
        """As it stands in parts, manifests and summaries."""
        return f"{self.make} {self.precision} on {self.device}"


@dataclass(frozen=True)
class Traits:
    """What `DRFConfig` says of a model that whoever asks it must know; see there.

    prior: share of each label that its checkpoint assumes. raw_sizes: of features, by modality.
    images_reduced: whether image features are reduced (`DRFConfig.image_reduction`).
    """

    labels: tuple[str, ...]
    prior: tuple[float, ...]
    max_text_tokens: int
    quality_threshold: float
    trained_kinds: Mapping[str, Sequence[str]]
    raw_sizes: Mapping[str, int]
    images_reduced: bool


def traits_of(config: DRFConfig) -> Traits:
    """The traits of a model with this configuration."""
    return Traits(
        config.labels,
        config.label_prior,
        config.max_text_tokens,
        config.quality_threshold,
        config.trained_kinds or {},
        config.raw_sizes,
        bool(config.image_reduction),
    )


@dataclass(frozen=True)
class Said:
    """What a model says of a batch, as arrays; see `DRFOutput`.

    logits (batch, labels) under a uniform prior, quality (batch, 2), evidence (batch, 2, labels),
    damage (batch, 2) int, score (batch, 2).
    """

    logits: np.ndarray
    quality: np.ndarray
    evidence: np.ndarray
    damage: np.ndarray
    score: np.ndarray


class UnservableError(Exception):
    """A runtime cannot run this model; its message says why."""


class ReadyModel(Protocol):
    """A checkpoint's model, ready to run; each call may come from any thread.

    batch_size: posts that keep all of it busy when they are encoded together.
    """

    runtime: Runtime
    batch_size: int

    @property
    def traits(self) -> Traits:
        """What is to be known of it."""

    def encode_texts(self, token_ids: Sequence[list[int]]) -> np.ndarray:
        """Raw features of texts in their order; (texts, raw text size) float32."""

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Raw features of images, each uint8 (3, h, w); (images, raw image size) float32."""

    def conclude(
        self, text: np.ndarray | None, image: np.ndarray | None, present: np.ndarray
    ) -> Said:
        """Quality, recovery and fusion.

        text, image: raw features of the posts that have one, in their order, None where none has;
        present (batch, 2) bool.
        """


@dataclass(frozen=True)
class Served:
    """What annotates: a model, and what prepares posts for it.

    processor: tokenizers and Pillow alone where that does and the runtime needs no more.
    """

    model: ReadyModel
    processor: DRFProcessor | LightPreparer
    preparation: Preparation
