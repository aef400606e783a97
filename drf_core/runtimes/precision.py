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
    inputs = processor.normalise(pixels.to(model.device)).to(weights_dtype(model.image_encoder))
    with autocast(model.device, inputs.dtype):
        return model.encode_image(inputs.contiguous(memory_format=torch.channels_last)).float()


def cast_weights(encoder: nn.Module) -> None:
    """Weights to bf16, so that nothing is cast in a forward.

    All but those of batch normalisation, which torch computes in f32 beside bf16 inputs: its
    running variances span more than eight bits tell apart.
    """
    encoder.to(torch.bfloat16)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()


def weights_dtype(encoder: nn.Module) -> torch.dtype:
    """What an encoder's matrices and convolutions are kept in."""
    return next(one.dtype for one in encoder.parameters() if one.ndim > 1)


def learning_autocast(device: torch.device) -> torch.autocast:
    """bf16 wherever the device computes in it, CPUs with AVX-512 BF16 included.

    For steps that learn: what is compared with a reference is encoded in full precision.
    """
    native = device.type == "cuda" or (
        device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def autocast(device: torch.device, weights: torch.dtype = torch.float32) -> torch.autocast:
    """bf16 on a GPU for weights in f32; nothing on a CPU, where emulated bf16 is a trap."""
    enabled = device.type == "cuda" and weights == torch.float32
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
