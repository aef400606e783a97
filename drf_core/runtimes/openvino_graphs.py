"""A model's encoders as OpenVINO graphs, converted from torch and compared with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging

from drf_core.runtimes.openvino_library import load_openvino

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

TEXT, IMAGE = "text", "image"

# Of features' largest value. Sums in another order differ by a hundredth of that; a graph that
# lost something (a mask, a length) by far more.
_TOLERANCE = 1e-2


class ConversionError(Exception):
    """An encoder that OpenVINO cannot convert; the message says which and why, in one line."""


class _Texts(nn.Module):
    def __init__(self, model: DRFModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)


class _Images(nn.Module):
    def __init__(self, model: DRFModel, processor: DRFProcessor) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(self.processor.normalise(pixels))


def text_graph(model: DRFModel) -> Any:
    """The text encoder as a graph; ids and mask (n, tokens) int64 -> raw features.

    Raises ConversionError.
    """
    module = _Texts(model).eval()
    example = torch.ones(2, 8, dtype=torch.int64)
    # Of another shape than the example, and padded: what tracing froze shows here.
    ids = torch.arange(3 * 11).reshape(3, 11) % min(200, model.config.text_config.vocab_size)
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    with _named("text", model.config.text_config.model_type):
        graph = _converted(module, {"input_ids": example, "attention_mask": example})
        _compare(graph, module, ids, mask)
    return graph


def image_graph(model: DRFModel, processor: DRFProcessor) -> Any:
    """The image encoder as a graph; uint8 pixels (n, 3, h, w) -> raw features.

    Height and width are those that the image processor makes: some encoders take no others.
    Raises ConversionError.
    """
    module = _Images(model, processor).eval()
    example = torch.from_numpy(processor.pixels(Image.new("RGB", (320, 320)))[None])
    noise = np.random.default_rng(0).integers(0, 256, (3, *example.shape[1:]), dtype=np.uint8)
    with _named("image", model.config.vision_config.model_type):
        graph = _converted(module, example)
        graph.reshape([-1, *example.shape[1:]])
        _compare(graph, module, torch.from_numpy(noise))
    return graph


class _named:
    """Turns whatever a converter raises into a ConversionError that names the encoder."""

    def __init__(self, modality: str, model_type: str) -> None:
        self._what = f"the {modality} encoder ({model_type})"

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = (lines or [""])[0][:200]
            raise ConversionError(
                f"OpenVINO cannot convert {self._what}: {type(error).__name__}: {why}"
            ) from error


def _converted(module: nn.Module, example: Any) -> Any:
    # Tracing reads every attribute of an encoder, its loss among them, which it then complains of.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    with torch.no_grad(), warnings.catch_warnings(), contextlib.ExitStack() as after:
        after.callback(logging.set_verbosity, verbosity)
        warnings.simplefilter("ignore")
        return load_openvino().convert_model(module, example_input=example)


@torch.no_grad()
def _compare(graph: Any, module: Callable[..., Tensor], *inputs: Tensor) -> None:
    expected = module(*inputs).numpy()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    found = load_openvino().Core().compile_model(graph, "CPU", hints)([i.numpy() for i in inputs])
    worst = float(np.abs(found[0] - expected).max() / max(float(np.abs(expected).max()), 1e-9))
    if not worst <= _TOLERANCE:
        raise ValueError(f"its features differ from torch's by {worst:.1%}")
