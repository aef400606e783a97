"""How much of a GPU's arithmetic the annotator uses, with full-size encoders.

    python -m tests.benchmarks.speed.bench_gpu [--device cuda]

ViT-B/16 and BERT-base from their configurations, with random weights, as an annotator runs them:
posts that are decoded and tokenised already, in host memory, to predictions in host memory; bf16
on a GPU, f32 on a CPU. The arithmetic of a post is counted by torch on the same encoders; the
rate to compare with is that of a large matrix product in the same precision, measured in the
same run. Decoding and tokenising, on as many threads as there are cores, stand apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, BitImageProcessorPil, ViTConfig

from drf_core.annotator import Annotator, PreparedPost
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.choice import choose_device
from drf_core.runtimes.torch_model import TorchModel
from drf_core.training.building import train_tokenizer
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import aim, cores, machine, table

LABELS = ("negative", "neutral", "positive")
TARGET = 0.5
_QUEUE = 256


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--posts", help="originals to decode; default: the real nights")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=8, help="per round")
    parser.add_argument("--tokens", type=int, default=32, help="per text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrix product")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
    model, processor = full_size(arguments.hidden, arguments.layers, arguments.heads)
    work = operations(model, processor, arguments.tokens)
    model.to(choose_device(arguments.device))
    annotator = Annotator(TorchModel(model, processor, for_serving=True), processor)
    posts = random_posts(arguments.batch_size, arguments.tokens, processor)
    features = [
        annotator.encode_texts([post.token_ids for post in posts]),
        annotator.encode_images([post.pixels for post in posts]),
    ]
    annotator.predict(posts)  # libraries initialise themselves in the first

    def median(step: Callable[[], object]) -> float:
        """Seconds per post."""
        rounds = [_seconds(annotator, step, arguments.batches) for _ in range(arguments.rounds)]
        return statistics.median(rounds) / (arguments.batches * len(posts))

    seconds = {
        "whole": median(lambda: annotator.predict(posts)),
        "texts": median(lambda: annotator.encode_texts([post.token_ids for post in posts])),
        "images": median(lambda: annotator.encode_images([post.pixels for post in posts])),
        "head": median(lambda: annotator.conclude(posts, *features)),
    }
    limit = matrix_rate(annotator, arguments.matrix, arguments.rounds)
    name = torch.cuda.get_device_name() if annotator.model.device.type == "cuda" else machine()
    print(f"{name}; {annotator.runtime}; batches of {len(posts)}, {arguments.tokens} tokens")
    rows: list[list[object]] = [["", "posts/s", "GFLOP a post", "TFLOP/s", "of the product's"]]
    for part, taken in seconds.items():
        count = work["texts"] + work["images"] if part == "whole" else work.get(part)
        rate = f"{count / taken / 1e12:.5f}" if count else ""
        share = f"{100 * count / taken / limit:.1f} %" if count else ""
        done = f"{count / 1e9:.2f}" if count else ""
        rows.append([part, f"{1 / taken:,.0f}", done, rate, share])
    rows.append(["matrix product", "", "", f"{limit / 1e12:.5f}", ""])
    decoded = decoding_rate(annotator, originals)
    rows.append([f"decode, tokenise ({cores()} threads)", f"{decoded:,.0f}", "", "", ""])
    print(table(rows))
    whole = (work["texts"] + work["images"]) / seconds["whole"]
    print(aim("share of the matrix product's rate", whole / limit, TARGET))


def full_size(hidden: int, layers: int, heads: int) -> tuple[DRFModel, DRFProcessor]:
    """A model with ViT and BERT of random weights, in these sizes, and its processor."""
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    torch.manual_seed(0)
    text, vision = BertConfig(**sizes), ViTConfig(**sizes)
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
        text_feature_size=hidden,
        image_feature_size=hidden,
        image_pooling="first",
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


def matrix_rate(annotator: Annotator, side: int, rounds: int) -> float:
    """Operations per second of a square matrix product in the annotator's precision."""
    dtype = torch.bfloat16 if annotator.runtime.precision == "bf16" else torch.float32
    one, other = (
        torch.randn(side, side, device=annotator.model.device).to(dtype) for _ in range(2)
    )
    repeats = 20
    _seconds(annotator, lambda: one @ other, 3)
    rates = [
        2 * side**3 * repeats / _seconds(annotator, lambda: one @ other, repeats)
        for _ in range(rounds)
    ]
    return statistics.median(rates)


def decoding_rate(annotator: Annotator, originals: Originals) -> float:
    """Posts per second that threads decode and tokenise."""
    with ThreadPoolExecutor(cores()) as pool:
        began = time.perf_counter()
        list(pool.map(lambda p: annotator.prepare(p["text"], p["image"]), originals.posts))
        return len(originals.posts) / (time.perf_counter() - began)


def _seconds(annotator: Annotator, step: Callable[[], object], times: int) -> float:
    _finish(annotator)
    began = time.perf_counter()
    for _ in range(times):
        step()
    _finish(annotator)
    return time.perf_counter() - began


def _finish(annotator: Annotator) -> None:
    if annotator.model.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
