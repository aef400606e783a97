"""Encoders that torch runs: f32 on a CPU, bf16 on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.captured_forward import CapturedForward, cast_weights
from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.text_batches import text_batches

# Texts per forward: few enough that little padding is computed, enough to fill the processor.
_TEXTS_AT_ONCE = {"cpu": 16, "cuda": 64}


class TorchEncoders:
    """The encoders of a model where they are, without gradient.

    captured: on a GPU, forwards as CUDA graphs with bf16 weights, which no training goes on
    with.
    """

    def __init__(self, model: DRFModel, processor: DRFProcessor, *, captured: bool = False) -> None:
        self._model = model
        self._processor = processor
        self._device = model.device
        # Convolutions run faster on channels-last weights, on CPU and GPU alike.
        model.image_encoder.to(memory_format=torch.channels_last)
        gpu = self._device.type == "cuda"
        self.runtime = Runtime("torch", "bf16" if gpu else "f32", self._device.type)
        self._text: Callable[..., Tensor] = partial(self._forward, self._encode_text)
        self._image: Callable[..., Tensor] = partial(self._forward, self._encode_images)
        if gpu and captured:
            cast_weights(model.text_encoder)
            cast_weights(model.image_encoder)
            longest = model.config.max_text_tokens
            self._text = CapturedForward(model.encode_text, self._device, longest)
            self._image = CapturedForward(
                model.encode_image, self._device, None, before=self._normalised
            )

    @torch.no_grad()
    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32 on the device."""
        size = self._model.config.text_feature_size
        features = torch.empty(len(token_ids), size, device=self._device)
        pad = self._processor.tokenizer.pad_token_id or 0
        for rows, ids, mask in text_batches(token_ids, pad, _TEXTS_AT_ONCE[self._device.type]):
            features[torch.from_numpy(rows).to(self._device)] = self._text(ids, mask)
        return features

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
        return self._image(np.stack(pixels))

    def _encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._model.encode_text(ids, mask)

    def _encode_images(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(self._normalised(pixels))

    def _normalised(self, pixels: Tensor) -> Tensor:
        inputs = self._processor.normalise(pixels)
        return inputs.contiguous(memory_format=torch.channels_last)

    def _forward(self, encode: Callable[..., Tensor], *arrays: np.ndarray) -> Tensor:
        inputs = [torch.from_numpy(array).to(self._device) for array in arrays]
        with autocast(self._device):
            return encode(*inputs).float()


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; nothing on a CPU, where emulated bf16 is a trap."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
