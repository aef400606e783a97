"""Frozen encoders, compiled for the processor: what caches of features are made with."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.interface import UnservableError
from drf_core.runtimes.openvino_graphs import image_graph, text_graph
from drf_core.runtimes.openvino_library import IMAGES_AT_ONCE, compiled, joined
from drf_core.runtimes.precision import autocast, encode_pixels

_log = logging.getLogger(__name__)

# Compiling takes some seconds, as long as torch takes for about this many images or texts.
_WORTH_COMPILING = 500


def frozen_text_encoder(model: DRFModel, texts: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A function from ids and mask (n, tokens) to encoded texts (n, text size), without gradient.

    Compiled as `frozen_image_encoder` is, and where it is not.
    """
    model.eval()
    if model.device.type == "cpu" and texts >= _WORTH_COMPILING:
        threads = torch.get_num_threads()
        try:
            infer = compiled(text_graph(model), "f32", threads)
        except UnservableError as error:
            _log.warning("%s; torch encodes the texts, several times slower", error)
        else:

            def with_openvino(ids: Tensor, mask: Tensor) -> Tensor:
                parts = zip(ids.chunk(threads), mask.chunk(threads), strict=True)
                (features,) = joined(infer([(one.numpy(), other.numpy()) for one, other in parts]))
                return torch.from_numpy(features)

            return with_openvino

    def with_torch(ids: Tensor, mask: Tensor) -> Tensor:
        with autocast(model.device):
            return model.encode_text(ids, mask)

    return with_torch


def frozen_image_encoder(
    model: DRFModel, processor: DRFProcessor, images: int
) -> Callable[[Tensor], Tensor]:
    """A function from uint8 pixels (n, 3, h, w) to raw features (n, size), without gradient.

    On a CPU, for more than a few hundred images, the encoder is compiled with OpenVINO in
    full precision (measured on MobileNetV2: six times as fast as torch, features equal to
    four digits); else, or where OpenVINO cannot convert it, which is logged, torch runs it, with
    bf16 autocast on a GPU.
    """
    model.eval()
    graph = None
    if model.device.type == "cpu" and images >= _WORTH_COMPILING:
        try:
            graph = image_graph(model, processor)
        except UnservableError as error:
            _log.warning("%s; torch encodes the images, several times slower", error)
    if graph is None:
        # Convolutions run faster on channels-last weights.
        model.image_encoder.to(memory_format=torch.channels_last)

        @torch.no_grad()
        def with_torch(pixels: Tensor) -> Tensor:
            return encode_pixels(model, processor, pixels)

        return with_torch
    infer = compiled(graph, "f32", torch.get_num_threads())

    def with_openvino(pixels: Tensor) -> Tensor:
        (features,) = joined(infer([(part.numpy(),) for part in pixels.split(IMAGES_AT_ONCE)]))
        return torch.from_numpy(features)

    return with_openvino
