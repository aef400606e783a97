"""Encoders that OpenVINO runs on a CPU, compiled for its processor."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from drf_core.modeling_drf import DRFModel
from drf_core.openvino_runtime import load_openvino
from drf_core.processing_drf import DRFProcessor
from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.text_batches import text_batches

# Per inference: few enough that little padding is computed and that activations stay in the
# processor's caches, enough to fill its arithmetic.
_TEXTS_AT_ONCE = 16
_IMAGES_AT_ONCE = 16


class OpenVINOEncoders:
    """Both encoders of a checkpoint as compiled graphs."""

    def __init__(
        self, text_graph: Any, image_graph: Any, pad: int, precision: str, threads: int
    ) -> None:
        """Compile.

        text_graph: ids and mask (n, tokens) int64 -> features; image_graph: uint8 pixels
        (n, 3, h, w) -> features. pad: the tokenizer's padding id. precision: f32, bf16 or int8.
        threads: that the two may use together.
        """
        self.runtime = Runtime("openvino", precision, "cpu")
        self._pad = pad
        self._text = compiled(text_graph, precision, threads)
        self._image = compiled(image_graph, precision, threads)

    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32."""
        batches = list(text_batches(token_ids, self._pad, _TEXTS_AT_ONCE))
        encoded = [self._text(ids, mask) for _, ids, mask in batches]
        features = np.empty((len(token_ids), encoded[0].shape[1]), np.float32)
        for (rows, _, _), found in zip(batches, encoded, strict=True):
            features[rows] = found
        return torch.from_numpy(features)

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
        return torch.from_numpy(
            np.concatenate(
                [
                    self._image(np.stack(pixels[start : start + _IMAGES_AT_ONCE]))
                    for start in range(0, len(pixels), _IMAGES_AT_ONCE)
                ]
            )
        )


def openvino_encoders(
    model: DRFModel, processor: DRFProcessor, runtime: Runtime, threads: int
) -> OpenVINOEncoders:
    """The model's encoders, compiled; the model itself is left without them."""
    graphs = text_graph(model), image_graph(model, processor)
    # Two copies of the weights would be one too many.
    model.text_encoder = model.image_encoder = _Elsewhere()
    pad = processor.tokenizer.pad_token_id or 0
    return OpenVINOEncoders(*graphs, pad, runtime.precision, threads)


class _Elsewhere(nn.Module):
    def forward(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("this model's encoders were handed over to another runtime")


def compiled(graph: Any, precision: str, threads: int) -> Callable[..., np.ndarray]:
    """A function from a graph's inputs to its one output, safe to call from any thread."""
    hints = {
        # Quantised graphs say themselves what is int8; the rest of them stays in full precision.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = load_openvino().Core().compile_model(graph, "CPU", hints).create_infer_request()
    lock = threading.Lock()

    def infer(*inputs: np.ndarray) -> np.ndarray:
        # One request fills all threads, so two of them would only wait for each other.
        with lock:
            return request.infer(list(inputs), share_inputs=True)[0].copy()

    return infer


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
    """The text encoder as a graph; ids and mask (n, tokens) int64 -> raw features."""
    example = torch.ones(2, 8, dtype=torch.int64)
    return _converted(_Texts(model), {"input_ids": example, "attention_mask": example})


def image_graph(model: DRFModel, processor: DRFProcessor) -> Any:
    """The image encoder as a graph; uint8 pixels (n, 3, h, w) -> raw features.

    Height and width are those that the image processor makes: some encoders take no others.
    """
    example = processor.pixels(Image.new("RGB", (320, 320)))[None]
    graph = _converted(_Images(model, processor), torch.from_numpy(example))
    graph.reshape([-1, *example.shape[1:]])
    return graph


def _converted(module: nn.Module, example: Any) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_openvino().convert_model(module.eval(), example_input=example)
