"""Encoders that torch runs: f32 on a CPU, bf16 on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.text_batches import text_batches

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

# Texts per forward: few enough that little padding is computed, enough to fill the processor.
_TEXTS_AT_ONCE = {"cpu": 16, "cuda": 256}


class TorchEncoders:
    """The encoders of a model where they are, without gradient.

    for_serving: on a GPU the weights become bf16, which no training goes on with.
    """

    def __init__(
        self, model: DRFModel, processor: DRFProcessor, *, for_serving: bool = False
    ) -> None:
        self._model = model
        self._processor = processor
        self._device = model.device
        # Convolutions run faster on channels-last weights, on CPU and GPU alike.
        model.image_encoder.to(memory_format=torch.channels_last)
        gpu = self._device.type == "cuda"
        self.runtime = Runtime("torch", "bf16" if gpu else "f32", self._device.type)
        if gpu and for_serving:
            cast_weights(model.text_encoder)
            cast_weights(model.image_encoder)

    @torch.no_grad()
    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32 on the device."""
        size = self._model.config.text_feature_size
        features = torch.empty(len(token_ids), size, device=self._device)
        pad = self._processor.tokenizer.pad_token_id or 0
        for rows, ids, mask in text_batches(token_ids, pad, _TEXTS_AT_ONCE[self._device.type]):
            features[torch.from_numpy(rows).to(self._device)] = self._forward(
                self._model.encode_text, ids, mask
            )
        return features

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
        return self._forward(self._encode_images, np.stack(pixels))

    def _encode_images(self, pixels: Tensor) -> Tensor:
        inputs = self._processor.normalise(pixels)
        return self._model.encode_image(inputs.contiguous(memory_format=torch.channels_last))

    def _forward(self, encode: Callable[..., Tensor], *arrays: np.ndarray) -> Tensor:
        inputs = [torch.from_numpy(array).to(self._device) for array in arrays]
        with autocast(self._device):
            return encode(*inputs).float()


def cast_weights(encoder: nn.Module) -> None:
    """Matrix and convolution weights to bf16, once instead of in every autocast forward."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)


def learning_autocast(device: torch.device) -> torch.autocast:
    """bf16 wherever the device computes in it, CPUs with AVX-512 BF16 included.

    For steps that learn: what is compared with a reference is encoded in full precision.
    """
    native = device.type == "cuda" or (
        device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; nothing on a CPU, where emulated bf16 is a trap."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
