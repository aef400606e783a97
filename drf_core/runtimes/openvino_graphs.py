"""A model as OpenVINO graphs, converted from torch and compared with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging

from drf_core.model.input_statistics import image_statistics
from drf_core.runtimes.interface import UnservableError
from drf_core.runtimes.openvino_library import (
    HEAD,
    IMAGE,
    IMAGE_STATISTICS,
    TEXT,
    TEXT_STATISTICS,
    compiled,
    load_openvino,
)

if TYPE_CHECKING:
    from drf_core.model.head import FeatureModel
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

# Of features' largest value. Sums in another order differ by a hundredth of that; a graph that
# lost something (a mask, a length) by far more.
_TOLERANCE = 1e-2
# Of posts whose label, quality or evidence may be another one: a rank's or a bin's neighbour.
_TOLERATED_POSTS = 0.05


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


class _ImageStatistics(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return image_statistics(pixels)


class _Head(nn.Module):
    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> _Head:
        # Else its memory is forgotten, and computed in the graph again for every batch.
        return self

    def forward(self, text: Tensor, image: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        said = self.model.forward_features(text, image, present)
        return said.logits, said.quality, said.evidence, said.damage, said.score


def model_graphs(model: DRFModel, processor: DRFProcessor) -> dict[str, Any]:
    """The whole model as graphs, by the names that `OpenVINOModel` has for them.

    Raises UnservableError.
    """
    return {
        TEXT: text_graph(model),
        IMAGE: image_graph(model, processor),
        **statistics_graphs(model, processor),
        HEAD: head_graph(model),
    }


def text_graph(model: DRFModel) -> Any:
    """The text encoder as a graph; ids and mask (n, tokens) int64 -> raw features.

    Raises UnservableError.
    """
    module = _Texts(model).eval()
    example = torch.ones(2, 8, dtype=torch.int64)
    # Of another shape than the example, and padded: what tracing froze shows here.
    ids = torch.arange(3 * 11).reshape(3, 11) % min(200, model.config.text_config.vocab_size)
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    with _named(f"the text encoder ({model.config.text_config.model_type})"):
        graph = _converted(module, {"input_ids": example, "attention_mask": example})
        _compare(graph, module, ids, mask)
    return graph


def image_graph(model: DRFModel, processor: DRFProcessor) -> Any:
    """The image encoder as a graph; uint8 pixels (n, 3, h, w) -> raw features.

    Height and width are those that the image processor makes: some encoders take no others.
    Raises UnservableError.
    """
    module = _Images(model, processor).eval()
    example, noise = _pictures(processor)
    with _named(f"the image encoder ({model.config.vision_config.model_type})"):
        graph = _converted(module, example)
        graph.reshape([-1, *example.shape[1:]])
        _compare(graph, module, noise)
    return graph


def _pictures(processor: DRFProcessor) -> tuple[Tensor, Tensor]:
    """Pixels of one picture and of three of noise, of the shape that the processor makes."""
    example = torch.from_numpy(processor.pixels(Image.new("RGB", (320, 320)))[None])
    noise = np.random.default_rng(0).integers(0, 256, (3, *example.shape[1:]), dtype=np.uint8)
    return example, torch.from_numpy(noise)


def statistics_graphs(model: DRFModel, processor: DRFProcessor) -> dict[str, Any]:
    """ids and mask (n, tokens) int64, or uint8 pixels (n, 3, h, w) -> statistics."""
    example = torch.ones(2, 8, dtype=torch.int64)
    ids = torch.arange(3 * 11).reshape(3, 11) % model.config.text_config.vocab_size
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    with _named("a text's statistics"):
        of_texts = model.token_statistics
        texts = _converted(of_texts, {"input_ids": example, "attention_mask": example})
        _compare(texts, of_texts, ids, mask)
    pixels, noise = _pictures(processor)
    with _named("an image's statistics"):
        images = _converted(_ImageStatistics(), pixels)
        images.reshape([-1, *pixels.shape[1:]])
        _compare(images, _ImageStatistics(), noise)
    return {TEXT_STATISTICS: texts, IMAGE_STATISTICS: images}


def head_graph(model: FeatureModel) -> Any:
    """What a model does with features.

    Raw text and image features (n, size) of every post, and present (n, 2) bool: absent ones are
    not read -> logits under a uniform prior, quality, evidence, damage, score (see `DRFOutput`).
    Raises UnservableError.
    """
    head, prior = _Head(model), model.config.prior
    known = [model.paired_queue.rows(m)[:128].cpu() for m in (TEXT, IMAGE)]
    present = torch.tensor([[True, True], [True, False], [False, True]])
    model.config.prior = None
    try:
        with _named("what is done with features"), torch.no_grad():
            model.eval().memory_errors()
            graph = _converted(head, (*(rows[:3] for rows in known), present))
            given = [*known, present.repeat(43, 1)[: len(known[0])]]
            found = _results(graph, given)
            off = [
                (np.abs(f - e.numpy()) > _TOLERANCE).reshape(len(f), -1).any(1)
                for f, e in zip(found, head(*given), strict=True)
            ]
            if np.any(off, 0).mean() > _TOLERATED_POSTS:
                raise ValueError(f"it says something else of {np.any(off, 0).mean():.1%} of posts")
        return graph
    finally:
        model.config.prior = prior


class _named:
    """Turns whatever a converter raises into a UnservableError that names the part."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = (lines or [""])[0][:200]
            raise UnservableError(
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
    found = _results(graph, inputs)[0]
    worst = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-9))
    if not worst <= _TOLERANCE:
        raise ValueError(f"its features differ from torch's by {worst:.1%}")


def _results(graph: Any, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    return compiled(graph, "f32", 1)([[one.numpy() for one in inputs]])[0]
