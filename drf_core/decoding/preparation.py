"""From a text or an image file to what an encoder takes; runs in child processes."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from drf_core.decoding.child import granted
from drf_core.decoding.child_messages import Buffer, Link
from drf_core.decoding.images import decode_image
from drf_core.decoding.resizing import Resizing, bounded
from drf_core.decoding.texts import text_reason
from drf_core.decoding.tokens import TEXT_WINDOWS, TextReader
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from schemas.reasons import ModalityReason


class Preparer(Protocol):
    """What a processor does to one text and one image."""

    def read_text(self, text: str, max_tokens: int, windows: int) -> tuple[list[int], float]:
        """Token ids of one text in windows, and the share of it that they hold."""

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, height, width) of one RGB image."""


@dataclass(frozen=True)
class Preparation:
    """How texts and images are prepared, as it is handed to a child.

    tokenizer: the tokenizers library's own JSON, and mask, its token for a masked word. resizing:
    None where another library is needed: then `processor` (module:function) makes it from `folder`.
    """

    folder: str
    processor: str
    max_tokens: int
    tokenizer: str
    mask: str
    resizing: Resizing | None
    target: int | None


@dataclass(frozen=True)
class ImageLimits:
    """Which images are decoded at all; see `decode_image`."""

    max_pixels: int = MAX_IMAGE_PIXELS
    max_bytes: int = MAX_IMAGE_BYTES
    more_formats: tuple[str, ...] = ()


class LightPreparer:
    """Prepares with tokenizers and Pillow alone, which are at hand at once.

    target: shortest side, in pixels, that images are resized to; None where they are not.
    """

    def __init__(self, preparation: Preparation, resizing: Resizing) -> None:
        self._reader = TextReader(preparation.tokenizer, preparation.max_tokens, preparation.mask)
        self._resizing = resizing
        self.target = preparation.target

    def read_text(self, text: str, max_tokens: int, windows: int) -> tuple[list[int], float]:
        """Token ids of one text in windows, and the share of it that they hold."""
        return self._reader.read(text, windows)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, height, width) of one RGB image."""
        return self._resizing(bounded(image, self.target))


def light_preparer(preparation: Preparation) -> LightPreparer | None:
    """What prepares so, None where other libraries are needed."""
    if preparation.resizing is None:
        return None
    return LightPreparer(preparation, preparation.resizing)


def from_fields(fields: Mapping[str, Any]) -> Preparation:
    """A Preparation again, of what `dataclasses.asdict` made of it and JSON of that."""
    resizing = fields["resizing"]
    if resizing is not None:
        sides = resizing["size"], resizing["crop"]
        size, crop = (tuple(side) if isinstance(side, list) else side for side in sides)
        resizing = Resizing(size, crop, resizing["resample"])
    return Preparation(**{**fields, "resizing": resizing})


# The child's own: what its last setup said.
_ready: tuple[Preparation, Preparer] | None = None


def set_up(message: dict[str, Any], buffers: list[Buffer], link: Link) -> None:
    """Make this child ready for a Preparation (its fields are the message); answers {}."""
    global _ready
    preparation = from_fields(message["preparation"])
    preparer: Preparer | None = light_preparer(preparation)
    if preparer is None:
        module, _, name = preparation.processor.partition(":")
        preparer = getattr(importlib.import_module(module), name)(preparation.folder)
    _ready = preparation, preparer
    link.send({})


def prepare(message: dict[str, Any], buffers: list[Buffer], link: Link) -> None:
    """Prepare texts and images one by one; answers each with its reason, or its numbers.

    kinds: "text" or "image" for each buffer. images: the fields of ImageLimits. alone: whether
    no other is decoded beside them. An answer has the reason, or token ids (int32) or pixels
    (uint8, of the shape) as its buffer; or `memory` where there was too little of it.
    """
    assert _ready is not None
    for kind, buffer in zip(message["kinds"], buffers, strict=True):
        memory = None if message["alone"] else message["memory"]
        answer: dict[str, Any] = {}
        numbers: list[Buffer] = []
        try:
            if kind == "text":
                reason, array, answer["read"] = _text(*_ready, buffer)
            else:
                reason, array = _image(*_ready, buffer, message["images"], memory)
        except MemoryError:
            if not granted():
                raise
            answer["memory"] = True
        except BaseException:
            # A Rust library's panic is no Exception; nothing asks this process to end.
            answer["reason"] = ModalityReason.UNDECODABLE
        else:
            answer["reason"] = reason
            if array is not None:
                answer["shape"] = array.shape
                numbers = [array.data]
        link.send({**answer, "used": time.process_time()}, numbers)


def as_message(preparation: Preparation) -> dict[str, Any]:
    """The message of `set_up`."""
    return {"preparation": dataclasses.asdict(preparation), "stays": True}


def _text(
    preparation: Preparation, preparer: Preparer, data: Buffer
) -> tuple[ModalityReason | None, np.ndarray | None, float | None]:
    text = bytes(data).decode("utf-8", errors="replace")
    if (reason := text_reason(text)) is not None:
        return reason, None, None
    ids, read = preparer.read_text(text, preparation.max_tokens, TEXT_WINDOWS)
    return None, np.asarray(ids, np.int32), read


def _image(
    preparation: Preparation,
    preparer: Preparer,
    data: Buffer,
    limits: dict[str, Any],
    memory: int | None,
) -> tuple[ModalityReason | None, np.ndarray | None]:
    picture, reason = decode_image(
        bytes(data),
        **limits,
        target=preparation.target,
        memory=memory,
    )
    return reason, None if picture is None else np.ascontiguousarray(preparer.pixels(picture))
