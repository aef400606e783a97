"""The interface of everything that encodes, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


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


class Encoders(Protocol):
    """A checkpoint's two encoders, ready to run; each call may come from any thread."""

    @property
    def runtime(self) -> Runtime:
        """What encodes here."""

    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32 on the device."""

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
