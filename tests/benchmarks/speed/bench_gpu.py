"""How much of a GPU's arithmetic the annotator uses, and what would use more of it.

    python -m tests.benchmarks.speed.bench_gpu [--device cuda] [--pair large small]

Two pairs of encoders from their configurations, with random weights, as an annotator runs them:
posts that are decoded and tokenised already, in host memory, to predictions in host memory; bf16
on a GPU, f32 on a CPU. Beside how they are served, other ways to run the same encoders: f32
weights under autocast, `torch.compile` in two modes, CUDA graphs captured by hand. The arithmetic
of a post is counted by torch on the same encoders; the rate to compare with is that of a large
matrix product in the same precision, measured in the same run. Decoding and tokenising, on as
many threads as there are cores, stand apart. "On it": of what is in the device's memory already.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    BertConfig,
    BitImageProcessorPil,
    MobileNetV2Config,
    ViTConfig,
)

from drf_core.annotator import Annotator, PreparedPost
from drf_core.decoding.images import decode_image
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes import torch_model
from drf_core.runtimes.choice import choose_device
from drf_core.runtimes.precision import autocast, encode_pixels, weights_dtype
from drf_core.runtimes.torch_model import TorchModel
from drf_core.training.building import train_tokenizer
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import aim, cores, machine, table

LABELS = ("negative", "neutral", "positive")
PAIRS = ("large", "small")
TARGET = 0.5
_QUEUE = 256
_LIMITS = {"max_pixels": MAX_IMAGE_PIXELS, "max_bytes": MAX_IMAGE_BYTES}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--posts", help="originals to decode; default: the real nights")
    parser.add_argument("--pair", nargs="+", default=PAIRS, choices=PAIRS, help="of encoders")
    parser.add_argument("--ways", nargs="+", default=tuple(WAYS), choices=tuple(WAYS))
    parser.add_argument("--batch-size", nargs="+", type=int, default=(64, 256, 1024))
    parser.add_argument("--images-at-once", type=int, help="default: as served")
    parser.add_argument("--measured", type=int, default=4096, help="posts per round")
    parser.add_argument("--tokens", type=int, default=32, help="per text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12, help="of the large pair")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrix product")
    arguments = parser.parse_args(argv)
    device = choose_device(arguments.device)
    if arguments.images_at_once:
        torch_model._IMAGES_AT_ONCE[device.type] = arguments.images_at_once
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    limit = matrix_rate(device, dtype, arguments.matrix, arguments.rounds)
    name = torch.cuda.get_device_name() if device.type == "cuda" else machine()
    print(f"{name}; torch {torch.__version__}; {arguments.tokens} tokens a text")
    print(f"matrix product of side {arguments.matrix}: {limit / 1e12:.5f} TFLOP/s", flush=True)
    rows: list[list[object]] = [
        [
            *("pair", "way", "batch", "first batch, s", "posts/s", "of the product's"),
            *("texts/s on it", "of the product's", "images/s on it", "of the product's", "head/s"),
        ]
    ]
    best: dict[str, float] = {}
    for pair, way in itertools.product(arguments.pair, arguments.ways):
        torch.manual_seed(0)
        model, processor = random_model(pair, arguments.layers)
        work = operations(model, processor, arguments.tokens)
        model.to(device)
        annotator = Annotator(
            TorchModel(model, processor, for_serving=way != "autocast"), processor
        )
        WAYS[way](model)
        for batch in arguments.batch_size:
            posts = random_posts(batch, arguments.tokens, processor)
            try:
                row, share = measure(annotator, posts, work, limit, arguments)
            except Exception as error:  # a way that cannot run these encoders is a finding, too
                row, share = [f"{type(error).__name__}: {' '.join(str(error).split()):.120}"], 0.0
            rows.append([pair, way, batch, *row])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
            best[pair] = max(best.get(pair, 0.0), share)
        print(annotator.runtime, file=sys.stderr)
        del model, annotator
        gc.collect()
        torch._dynamo.reset()
    print(table(rows))
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
    decoded = decoding_rate(processor, originals)
    print(f"decoding and tokenising: {decoded:,.0f} posts/s, {decoded / cores():,.0f} per core")
    for pair, share in best.items():
        print(aim(f"{pair}: share of the matrix product's rate", share, TARGET))


def measure(
    annotator: Annotator,
    posts: Sequence[PreparedPost],
    work: dict[str, int],
    limit: float,
    arguments: argparse.Namespace,
) -> tuple[list[object], float]:
    """A line's figures, and the whole's share of the matrix product's rate."""
    first = _seconds(annotator, lambda: annotator.predict(posts), 1)
    features = [
        annotator.encode_texts([post.token_ids for post in posts]),
        annotator.encode_images([post.pixels for post in posts]),
    ]
    times = max(1, arguments.measured // len(posts))

    def rate(step: Callable[[], object]) -> float:
        """Posts per second."""
        rounds = [_seconds(annotator, step, times) for _ in range(arguments.rounds)]
        return times * len(posts) / statistics.median(rounds)

    whole = rate(lambda: annotator.predict(posts))
    texts, images = map(rate, _on_device(annotator, posts))
    head = rate(lambda: annotator.conclude(posts, *features))
    line: list[object] = [f"{first:.1f}"]
    for done, count in (
        (whole, sum(work.values())),
        *zip((texts, images), work.values(), strict=True),
    ):
        line += [f"{done:,.0f}", f"{100 * done * count / limit:.1f} %"]
    return [*line, f"{head:,.0f}"], whole * sum(work.values()) / limit


def _on_device(
    annotator: Annotator, posts: Sequence[PreparedPost]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Encoding the texts, and the images, of posts that are in the device's memory already."""
    model, processor, device = annotator.model, annotator.processor, annotator.model.device
    ids = torch.tensor([post.token_ids for post in posts], device=device)
    pixels = torch.from_numpy(np.stack([post.pixels for post in posts])).to(device)

    @torch.no_grad()
    def texts() -> None:
        for part in ids.split(torch_model._TEXTS_AT_ONCE[device.type]):
            with autocast(device, weights_dtype(model.text_encoder)):
                model.raw_text(part, torch.ones_like(part))

    @torch.no_grad()
    def images() -> None:
        for part in pixels.split(torch_model._IMAGES_AT_ONCE[device.type]):
            encode_pixels(model, processor, part)

    return texts, images


def _compile(mode: str | None, model: DRFModel) -> None:
    for encoder in (model.text_encoder, model.image_encoder):
        encoder.compile(mode=mode)


def _capture(model: DRFModel) -> None:
    for encoder in (model.text_encoder, model.image_encoder):
        encoder.forward = Captured(encoder.forward)


class Captured:
    """A forward as CUDA graphs, one for each shape of its inputs; each overwrites its output."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, dict[str, Any], Any]] = {}

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """What the forward gives, until the next call."""
        shapes = tuple((name, one.shape) for name, one in inputs.items())
        if shapes not in self._graphs:
            self._graphs[shapes] = self._capture(inputs)
        graph, given, output = self._graphs[shapes]
        for name, one in inputs.items():
            given[name].copy_(one)
        graph.replay()
        return output

    def _capture(self, inputs: dict[str, torch.Tensor]) -> Any:
        given = {name: one.clone() for name, one in inputs.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._forward(**given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._forward(**given)
        return graph, given, output


# What is done to a model before it is measured. autocast: nothing, and its weights stay f32.
WAYS: dict[str, Callable[[DRFModel], None]] = {
    "served": lambda model: None,
    "autocast": lambda model: None,
    "compiled": partial(_compile, None),
    "reduce-overhead": partial(_compile, "reduce-overhead"),
    "captured": _capture,
}


def random_model(pair: str, layers: int) -> tuple[DRFModel, DRFProcessor]:
    """A model of random weights and its processor.

    large: BERT-base and ViT-B/16, of so many layers; small: MiniLM-L6 and MobileNetV2.
    """
    text: Any
    vision: Any
    if pair == "large":
        text, vision = BertConfig(num_hidden_layers=layers), ViTConfig(num_hidden_layers=layers)
        image_size = vision.hidden_size
    else:
        text = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        vision, image_size = MobileNetV2Config(), 1280
    side = vision.image_size
    image_processor = BitImageProcessorPil(
        size={"shortest_edge": side + side // 8},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tokenizer = train_tokenizer(["a post"], 300, text.max_position_embeddings)
    config = DRFConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        text_feature_size=text.hidden_size,
        image_feature_size=image_size,
        text_pooling="first" if pair == "large" else "mean",
        image_pooling="first" if pair == "large" else "mean",
        queue_length=_QUEUE,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = DRFModel(config, AutoModel.from_config(text), AutoModel.from_config(vision)).eval()
    posts = torch.arange(_QUEUE)
    rows = {m: torch.randn(_QUEUE, size) for m, size in config.raw_sizes.items()}
    model.paired_queue.push(rows, posts)
    for m, features in rows.items():
        model.undisrupted_queues[m].push({m: features}, posts)
        model.disrupted_queues[m].push({m: 2 * torch.randn_like(features)}, posts)
    model.fit_distributions()
    held_out = [torch.randn_like(features) for features in rows.values()]
    model.set_reference(*held_out, posts[:, None].repeat(1, 2))
    return model, DRFProcessor(image_processor, tokenizer)


@torch.inference_mode()
def operations(model: DRFModel, processor: DRFProcessor, tokens: int) -> dict[str, int]:
    """Floating-point operations of encoding one text and one image, as torch counts them."""
    counts = {}
    ids = torch.ones(1, tokens, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.encode_text(ids, ids)
    counts["texts"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        size = processor.image_processor.crop_size
        model.encode_image(torch.zeros(1, 3, size["height"], size["width"]))
    counts["images"] = counter.get_total_flops()
    return counts


def random_posts(count: int, tokens: int, processor: DRFProcessor) -> list[PreparedPost]:
    """Posts as `Annotator.prepare` makes them, with random content."""
    generator = np.random.default_rng(0)
    size = processor.image_processor.crop_size
    return [
        PreparedPost(
            generator.integers(5, 250, tokens).tolist(),
            generator.integers(0, 256, (3, size["height"], size["width"]), np.uint8),
            None,
            None,
        )
        for _ in range(count)
    ]


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, rounds: int) -> float:
    """Operations per second of a square matrix product."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    repeats = 20

    def seconds(times: int) -> float:
        _finish(device)
        began = time.perf_counter()
        for _ in range(times):
            one @ other
        _finish(device)
        return time.perf_counter() - began

    seconds(3)
    return statistics.median(2 * side**3 * repeats / seconds(repeats) for _ in range(rounds))


def decoding_rate(processor: DRFProcessor, originals: Originals) -> float:
    """Posts per second that threads decode and tokenise."""

    def prepare(post: dict[str, Any]) -> None:
        if post["text"]:
            processor.token_ids(post["text"], 64)
        picture = decode_image(post["image"], target=processor.target, **_LIMITS)[0]
        if picture is not None:
            processor.pixels(picture)

    with ThreadPoolExecutor(cores()) as pool:
        began = time.perf_counter()
        list(pool.map(prepare, originals.posts * 4))
        return 4 * len(originals.posts) / (time.perf_counter() - began)


def _seconds(annotator: Annotator, step: Callable[[], object], times: int) -> float:
    device = annotator.model.device
    _finish(device)
    began = time.perf_counter()
    for _ in range(times):
        step()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
