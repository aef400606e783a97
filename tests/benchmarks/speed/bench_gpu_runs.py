"""Whole runs on a GPU: what `drf annotate` reaches there, and whether it says the same.

    python -m tests.benchmarks.speed.bench_gpu_runs [--count 20000] [--posts DIR]

Labels, states and qualities of the default checkpoint, in bf16 on the GPU beside f32 on the CPU.
Then `drf annotate` on many posts, with the default checkpoint and with the two pairs of encoders
of bench_gpu, without start-up: that of a run on one post is taken off.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drf_core.annotator import Annotator, Prediction, PreparedPost
from drf_core.checkpoint import DEFAULT_FOLDER
from drf_core.runtimes.choice import choose_device
from drf_core.runtimes.torch_model import TorchModel, load
from schemas.annotations import MODALITIES
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import annotate, cores, machine, per_post, table
from tests.benchmarks.speed.bench_gpu import PAIRS, random_model


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=12, help="of the large pair")
    parser.add_argument("--models", nargs="*", default=("default", *PAIRS))
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        originals = Originals(arguments.posts, scratch)
        print(f"{machine()}\n")
        print(same(originals, arguments.device), flush=True)
        many, one = (originals.write(scratch / f"{n}", n) for n in (arguments.count, 1))
        rows: list[list[object]] = [
            ["model", "posts/s", "processor ms a post", "start-up, s", "peak, MB"]
        ]
        for name in arguments.models:
            model = name
            if name in PAIRS:
                model = str(scratch / name)
                if not Path(model).is_dir():
                    for part in random_model(name, arguments.layers):
                        part.save_pretrained(model)
            options = ("--runtime", "torch", "--device", arguments.device)
            first, run = (annotate(model, posts, *options) for posts in (one, many))
            rate, cpu = per_post(first, run, arguments.count - 1)
            rows.append(
                [
                    name,
                    f"{rate:,.0f}",
                    f"{cpu:.2f}",
                    f"{first.seconds:.1f}",
                    f"{run.peak:,.0f}",
                ]
            )
            print(*rows[-1], sep=" | ", flush=True)
        print(f"\n{arguments.count:,} posts ({originals.name}), {cores()} cores")
        print(table(rows))


def same(originals: Originals, device: str) -> str:
    """How far the default checkpoint says on a device what it says in f32 on a CPU.

    As it is served there, and with weights that stay f32 under autocast.
    """
    folder = str(DEFAULT_FOLDER)
    reference, served = (Annotator.from_pretrained(folder, one) for one in ("cpu", device))
    model, processor = load(folder, cores())
    cast = Annotator(TorchModel(model.to(choose_device(device)), processor), processor)
    posts = [reference.prepare(post["text"], post["image"]) for post in originals.posts]
    posts = [post for post in posts if post.usable]
    rows: list[list[object]] = [
        [
            *("", "posts", "", "same label", "same states"),
            *("confidence differs by", "at most", "quality differs by", "at most"),
        ]
    ]
    texts = [_without_image(post) for post in posts if post.has_text]
    for name, other in (("served", served), ("autocast", cast)):
        for shown, chosen in (("as they are", posts), ("texts alone", texts)):
            pairs = list(zip(reference.predict(chosen), other.predict(chosen), strict=True))
            labels = np.mean([a.label == b.label for a, b in pairs])
            states = np.mean([_states(a) == _states(b) for a, b in pairs])
            moved = [abs(a.confidence - b.confidence) for a, b in pairs if a.label == b.label]
            differences = [
                abs(getattr(a, m).quality - getattr(b, m).quality)
                for a, b in pairs
                for m in MODALITIES
            ]
            rows.append(
                [
                    *(name, len(pairs), shown, f"{100 * labels:.2f} %", f"{100 * states:.2f} %"),
                    *(f"{each:.4f}" for each in (np.mean(moved), np.max(moved))),
                    *(f"{each:.4f}" for each in (np.mean(differences), np.max(differences))),
                ]
            )
    return f"{served.runtime} beside {reference.runtime}\n{table(rows)}\n"


def _states(prediction: Prediction) -> tuple[str, str]:
    return prediction.text.state, prediction.image.state


def _without_image(post: PreparedPost) -> PreparedPost:
    return PreparedPost(post.token_ids, None, None, "missing")


if __name__ == "__main__":
    main()
