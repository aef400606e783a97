"""Encoders that torch runs: f32 on a CPU, bf16 on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drf_core.modeling_drf import DRFModel
from drf_core.processing_drf import DRFProcessor
from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.text_batches import text_batches

# Texts per forward: few enough that little padding is computed, enough to fill the processor.
_TEXTS_AT_ONCE = {"cpu": 16, "cuda": 64}


class TorchEncoders:
    """The encoders of a model where they are, without gradient."""

    def __init__(self, model: DRFModel, processor: DRFProcessor) -> None:
        self._model = model
        self._processor = processor
        self._device = model.device
        # Convolutions run faster on channels-last weights, on CPU and GPU alike.
        model.image_encoder.to(memory_format=torch.channels_last)
        bf16 = self._device.type == "cuda"
        self.runtime = Runtime("torch", "bf16" if bf16 else "f32", self._device.type)

    @torch.no_grad()
    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32 on the device."""
        size = self._model.config.text_feature_size
        features = torch.empty(len(token_ids), size, device=self._device)
        pad = self._processor.tokenizer.pad_token_id or 0
        for rows, ids, mask in text_batches(token_ids, pad, _TEXTS_AT_ONCE[self._device.type]):
            with autocast(self._device):
                encoded = self._model.encode_text(self._tensor(ids), self._tensor(mask))
            features[self._tensor(rows)] = encoded.float()
        return features

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
        inputs = self._processor.normalise(self._tensor(np.stack(pixels)))
        with autocast(self._device):
            encoded = self._model.encode_image(inputs.contiguous(memory_format=torch.channels_last))
        return encoded.float()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; nothing on a CPU, where emulated bf16 is a trap."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
