"""The arithmetic in which encoders compute, by device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor


def encode_pixels(model: DRFModel, processor: DRFProcessor, pixels: Tensor) -> Tensor:
    """Encoded images, uint8 (n, 3, h, w) -> (n, image size) float32, where the model is."""
    inputs = processor.normalise(pixels.to(model.device))
    with autocast(model.device):
        return model.encode_image(inputs.contiguous(memory_format=torch.channels_last)).float()


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
