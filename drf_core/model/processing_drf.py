"""Processor of a DRF model: the encoders' own tokenizer and image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    ProcessorMixin,
)

from drf_core.decoding.preparation import Preparation
from drf_core.decoding.resizing import bounded, resizing_of, whole_pixels
from drf_core.decoding.tokens import MASKED, TextReader
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.input_statistics import image_statistics

# How a child process makes one that needs more than tokenizers and Pillow.
_IN_CHILD = "drf_core.model.processing_drf:in_child"


class DRFProcessor(ProcessorMixin):
    """Tokenizes texts and prepares images as the encoders' own processors do.

    Works in two steps, so that disruption and transport happen in between on small data:
    `token_ids` and `pixels` per post (thread-safe), then `collate` for a batch.
    """

    attributes = ["tokenizer", "image_processor"]  # noqa: RUF012
    tokenizer_class = "AutoTokenizer"
    image_processor_class = "AutoImageProcessor"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        channels = (image_processor.image_mean, image_processor.image_std)
        if not image_processor.do_normalize:
            channels = ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        factor = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        self._mean, self._std = (torch.tensor(c).view(1, -1, 1, 1) for c in channels)
        self._factor = factor
        # Some (EfficientNet) rescale to [-1, 1].
        self._offset = 1.0 if getattr(image_processor, "rescale_offset", False) else 0.0
        self._resize = resizing_of(image_processor)
        self._readers: dict[int, TextReader] = {}

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> DRFProcessor:
        """Load tokenizer and image processor from a checkpoint folder or hub id."""
        return cls.from_encoders(folder, folder, **kwargs)

    @classmethod
    def from_encoders(cls, text: str, image: str, **kwargs: Any) -> DRFProcessor:
        """The tokenizer of one model and the image processor of another."""
        # Never code from a checkpoint, and no question whether to run it.
        kwargs = {**kwargs, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(text, **kwargs)
        # Pillow's resizing on every machine: features must not depend on whether torchvision
        # happens to be installed.
        return cls(AutoImageProcessor.from_pretrained(image, backend="pil", **kwargs), tokenizer)

    def save_pretrained(self, folder: str, **kwargs: Any) -> list[str]:
        """Write tokenizer and image-processor files; returns their paths."""
        files = [
            *self.tokenizer.save_pretrained(folder),
            *self.image_processor.save_pretrained(folder),
        ]
        return [str(file) for file in files]

    @property
    def target(self) -> int | None:
        """Shortest side, in pixels, that the image processor resizes to; None if it does not."""
        size = self.image_processor.size if self.image_processor.do_resize else None
        if not size:
            return None
        values = dict(size)
        sides = [values.get(k) for k in ("shortest_edge", "height", "width")]
        return max((side for side in sides if side), default=None)

    @property
    def mask_token(self) -> str:
        """What stands for a corrupted word: read as the mask token, or the unknown one."""
        return MASKED if self._mask else ""

    @property
    def _mask(self) -> str:
        return self.tokenizer.mask_token or self.tokenizer.unk_token or ""

    def token_ids(self, text: str, max_tokens: int) -> list[int]:
        """Token ids of the beginning of one text, special tokens included, at most max_tokens.

        `mask_token` in it is read as a masked word.
        """
        return self._reader(max_tokens).read(text, 1, masked=True)[0]

    def read_text(self, text: str, max_tokens: int, windows: int) -> tuple[list[int], float]:
        """Token ids of one text, and the share of it that they hold; see `TextReader.read`."""
        return self._reader(max_tokens).read(text, windows)

    def _reader(self, max_tokens: int) -> TextReader:
        reader = self._readers.get(max_tokens)
        if reader is None:
            described = self.tokenizer.backend_tokenizer.to_str()
            reader = self._readers[max_tokens] = TextReader(described, max_tokens, self._mask)
        return reader

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image to the encoder's size; uint8 (3, height, width)."""
        image = bounded(image, self.target)
        if self._resize is not None:
            return self._resize(image)
        return whole_pixels(self.image_processor, image)

    def preparation(self, folder: str, max_tokens: int) -> Preparation:
        """What `token_ids` and `pixels` do, as child processes are told it.

        folder: the checkpoint's.
        """
        return Preparation(
            folder=folder,
            processor=_IN_CHILD,
            max_tokens=max_tokens,
            tokenizer=self.tokenizer.backend_tokenizer.to_str(),
            mask=self._mask,
            resizing=self._resize,
            target=self.target,
        )

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rescale and normalise as the image processor does; uint8 -> float (n, 3, h, w)."""
        mean, std = self._mean.to(pixels.device), self._std.to(pixels.device)
        return (pixels.float() * self._factor - self._offset - mean) / std

    def collate(
        self,
        token_ids: Sequence[list[int] | None],
        pixels: Sequence[np.ndarray | None],
        device: torch.device | str = "cpu",
    ) -> BatchFeature:
        """Model inputs of a batch; None stands for an absent modality.

        Returns input_ids, attention_mask (present texts, tokens), pixel_values (present
        images, 3, height, width), image_statistics (present images, 10), text_present,
        image_present (batch,) bool.
        """
        texts = [ids for ids in token_ids if ids is not None]
        images = [image for image in pixels if image is not None]
        batch: dict[str, Any] = {
            "text_present": torch.tensor([ids is not None for ids in token_ids], device=device),
            "image_present": torch.tensor([image is not None for image in pixels], device=device),
            "input_ids": None,
            "attention_mask": None,
            "pixel_values": None,
            "image_statistics": None,
        }
        if texts:
            width = max(map(len, texts))
            padded = np.full((len(texts), width), self.tokenizer.pad_token_id or 0, np.int64)
            mask = np.zeros((len(texts), width), np.int64)
            for row, ids in enumerate(texts):
                padded[row, : len(ids)] = ids
                mask[row, : len(ids)] = 1
            batch["input_ids"] = torch.from_numpy(padded).to(device)
            batch["attention_mask"] = torch.from_numpy(mask).to(device)
        if images:
            stacked = torch.from_numpy(np.stack(images)).to(device)
            batch["image_statistics"] = image_statistics(stacked)
            batch["pixel_values"] = self.normalise(stacked).contiguous(
                memory_format=torch.channels_last
            )
        return BatchFeature(batch)

    def __call__(
        self,
        text: Sequence[str | None],
        images: Sequence[Image.Image | None],
        max_tokens: int = 96,
    ) -> BatchFeature:
        """Model inputs of a batch of texts and RGB images, None where absent."""
        return self.collate(
            [None if t is None else self.token_ids(t, max_tokens) for t in text],
            [None if i is None else self.pixels(i) for i in images],
        )


def in_child(folder: str) -> DRFProcessor:
    """The processor of a checkpoint folder, in a process that loads nothing else of it."""
    return DRFProcessor.from_pretrained(folder, local_files_only=True)


AutoProcessor.register(DRFConfig, DRFProcessor)
