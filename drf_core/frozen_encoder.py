"""A frozen image encoder, compiled for the processor: what caches of features are made with."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn

from drf_core.modeling_drf import DRFModel
from drf_core.openvino_runtime import load_openvino
from drf_core.processing_drf import DRFProcessor

# Compiling takes some seconds, as long as torch takes for about this many images.
_WORTH_COMPILING = 500


class _PooledFeatures(nn.Module):
    def __init__(self, model: DRFModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


def frozen_image_encoder(
    model: DRFModel, processor: DRFProcessor, images: int
) -> Callable[[Tensor], Tensor]:
    """A function from uint8 pixels (n, 3, h, w) to raw features (n, size), without gradient.

    On a CPU, for more than a few hundred images, the encoder is compiled with OpenVINO in
    full precision (measured on MobileNetV2: six times as fast as torch, features equal to
    four digits); else torch runs it, with bf16 autocast on a GPU.
    """
    model.eval()

    def with_torch(pixels: Tensor) -> Tensor:
        with torch.no_grad(), autocast(model.device):
            inputs = processor.normalise(pixels.to(model.device))
            return model.encode_image(inputs.contiguous(memory_format=torch.channels_last))

    if model.device.type != "cpu" or images < _WORTH_COMPILING:
        # Depthwise convolutions run about twice as fast on channels-last weights.
        model.image_encoder.to(memory_format=torch.channels_last)
        return with_torch
    openvino = load_openvino()
    # At the size that is left after the crop: some encoders take no other.
    example = torch.from_numpy(processor.pixels(Image.new("RGB", (320, 320))))[None]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(
            _PooledFeatures(model).eval(), example_input=processor.normalise(example)
        )
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(converted, "CPU", hints)

    def with_openvino(pixels: Tensor) -> Tensor:
        return torch.from_numpy(compiled(processor.normalise(pixels).numpy())[0].copy())

    return with_openvino


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; nothing on a CPU, where emulated bf16 is a trap."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
