"""Every runtime gives the labels of torch f32 on images decoded in full.

The reference takes the long way: Pillow's full decode (no draft mode), the encoder's own image
processor, torch in full precision. What is compared takes the way of the job. With real posts
beside the repository: the development posts among the nights, at original size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drf_core.annotator import Annotator, Prediction
from drf_core.decoding.images import decode_image
from drf_core.model.input_statistics import image_statistics
from drf_core.model.modeling_drf import DRFModel
from drf_core.runtimes.choice import choose_runtime
from drf_core.runtimes.interface import traits_of
from drf_core.runtimes.openvino_graphs import image_graph, statistics_graphs, text_graph
from drf_core.runtimes.openvino_library import IMAGE, TEXT
from drf_core.runtimes.openvino_model import OpenVINOModel
from drf_core.runtimes.torch_model import TorchModel
from drf_core.training.building import build_model
from pipelines.sample.command import make_sample
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from tests.conftest import LABELS, SHARED

# Share of posts with the same label.
LEAST = {"f32": 0.995, "bf16": 0.99}
# Qualities are ranks among some hundred reference posts, and in a dense part a small change of
# the features passes several: the mean says what a reader of diagnostics sees.
# Draft decoding alone moved image qualities by .016 on average on the default checkpoint.
MEAN_QUALITY_DIFFERENCE = {"f32": 0.03, "bf16": 0.03}


class Post(NamedTuple):
    text: str | None
    image: bytes | None


def read_posts(paths: list[Path], ids: set[str] | None = None) -> list[Post]:
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    chosen = [r for r in rows if ids is None or (r["post_id"] and str(r["post_id"])[1:] in ids)]
    images = [r["image"] for r in chosen]
    whole = [image["bytes"] if isinstance(image, dict) else image for image in images]
    return [Post(r["text"], image) for r, image in zip(chosen, whole, strict=True)]


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> list[Post]:
    """The development posts of the nights; without them the sample corpus."""
    corpora = SHARED / "corpora"
    if not corpora.is_dir():
        folder = tmp_path_factory.mktemp("sample")
        make_sample(folder)
        return read_posts(sorted(folder.rglob("*.parquet")))
    dev = pq.read_table(corpora / "mvsa_single" / "dev.parquet", columns=["post_id"])["post_id"]
    ids = {str(post_id) for post_id in dev.to_pylist()}
    return read_posts(sorted((corpora / "nightly").rglob("*.parquet")), ids)


def training_posts(shared: Path) -> pa.Table:
    """Posts to train on, shuffled: the file may be in the order of its labels."""
    table = pq.read_table(shared / "corpora" / "mvsa_single" / "train.parquet")
    return table.take(np.random.default_rng(0).permutation(table.num_rows)[:400])


@pytest.fixture(scope="module")
def fitted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM and MobileNetV2 with heads trained on some hundred posts: labels that mean it."""
    encoders = shared / "encoders"
    torch.manual_seed(0)
    model, processor = build_model(
        str(encoders / "all-MiniLM-L6-v2"),
        str(encoders / "mobilenet_v2_1.0_224"),
        LABELS,
        [],
        queue_length=200,
        reference_length=100,
    )
    table = training_posts(shared)
    annotator = Annotator(TorchModel(model, processor), processor)
    graphs = {
        TEXT: text_graph(model),
        IMAGE: image_graph(model, processor),
        **statistics_graphs(model, processor),
    }
    runtime, pad = choose_runtime("openvino-f32", "cpu"), processor.tokenizer.pad_token_id
    encode = OpenVINOModel(graphs, pad, traits_of(model.config), runtime, 2)
    rows = table.to_pylist()
    prepared = [annotator.prepare(row["text"], row["image"]) for row in rows]
    whole = [p for p in prepared if p.token_ids is not None and p.pixels is not None]
    labels = torch.tensor(
        [
            LABELS.index(row["label"])
            for row, p in zip(rows, prepared, strict=True)
            if p.token_ids is not None and p.pixels is not None
        ]
    )
    most = model.config.max_text_tokens
    text, image = map(
        torch.from_numpy,
        (
            encode.encode_texts([(p.token_ids or [])[:most] for p in whole]),
            encode.encode_images([p.pixels for p in whole if p.pixels is not None]),
        ),
    )
    fit_heads(model, text, image, labels)
    folder = tmp_path_factory.mktemp("fitted")
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))
    return folder


def fit_heads(
    model: DRFModel, text: torch.Tensor, image: torch.Tensor, labels: torch.Tensor
) -> None:
    """Queues, distributions and reference from the features, then some steps of training."""
    order = torch.randperm(len(labels))
    queued, held_out = order[:200], order[200:]
    model.paired_queue.push({"text": text[queued], "image": image[queued]}, queued)
    for name, features in (("text", text), ("image", image)):
        damaged = features[queued] + features.std(0) * torch.randn_like(features[queued])
        model.undisrupted_queues[name].push({name: features[queued]}, queued)
        model.disrupted_queues[name].push({name: damaged}, queued)
    model.fit_distributions()
    present = torch.ones(len(labels), 2, dtype=torch.bool)
    heads = [p for n, p in model.named_parameters() if "encoder." not in n]
    optimiser = torch.optim.AdamW(heads, 2e-3)
    model.train()
    for _ in range(80):
        optimiser.zero_grad()
        output = model.forward_features(text, image, present)
        loss = torch.nn.functional.cross_entropy(output.logits, labels)
        loss = loss + sum(
            torch.nn.functional.cross_entropy(output.unimodal_logits[:, column], labels)
            for column in range(2)
        )
        loss.backward()
        optimiser.step()
    paired = torch.arange(len(held_out))[:, None].repeat(1, 2)
    model.set_reference(text[held_out], image[held_out], paired)
    model.eval()


@torch.no_grad()
def reference(annotator: Annotator, posts: list[Post]) -> list[Prediction]:
    """Predictions by the long way."""
    said: list[Prediction] = []
    process = annotator.processor.image_processor
    for start in range(0, len(posts), 16):
        part = [annotator.prepare(*post) for post in posts[start : start + 16]]
        usable = [(p, post) for p, post in zip(part, posts[start:], strict=False) if p.usable]
        images = []
        for prepared, post in usable:
            if prepared.pixels is not None:
                picture, _ = decode_image(
                    post.image, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES
                )
                images.append(process(picture, return_tensors="pt")["pixel_values"][0])
        texts = [p.token_ids for p, _ in usable if p.token_ids is not None]
        features = None
        if images:
            # Statistics are of the pixels that the model gets, which draft decoding may change.
            pixels = [p.pixels for p, _ in usable if p.pixels is not None]
            described = image_statistics(torch.from_numpy(np.stack(pixels)))
            encoded = annotator.model.encode_image(torch.stack(images))
            features = torch.cat([encoded, described], 1).numpy()
        text = annotator.encode_texts(texts) if texts else None
        said += annotator.conclude([p for p, _ in usable], text, features)
    return said


def compare(
    folder: Path, posts: list[Post], runtimes: list[str], expected: list[Prediction]
) -> None:
    assert len({p.label for p in expected}) > 1 and len(expected) >= 15
    for runtime in runtimes:
        annotator = Annotator.from_pretrained(str(folder), "cpu", 0, runtime)
        prepared = [p for p in (annotator.prepare(*post) for post in posts) if p.usable]
        found = [
            p
            for start in range(0, len(prepared), 64)
            for p in annotator.predict(prepared[start : start + 64])
        ]
        same = np.mean([a.label == b.label for a, b in zip(expected, found, strict=True)])
        precision = annotator.runtime.precision
        differences = {
            m: float(
                np.mean(
                    [
                        abs(getattr(a, m).quality - getattr(b, m).quality)
                        for a, b in zip(expected, found, strict=True)
                    ]
                )
            )
            for m in ("text", "image")
        }
        print(f"{runtime}: {same:.2%} of {len(found)} labels, quality {differences}")
        assert same >= LEAST[precision], runtime
        assert max(differences.values()) <= MEAN_QUALITY_DIFFERENCE[precision], runtime


@pytest.fixture(scope="module")
def default_expected(posts: list[Post]) -> list[Prediction]:
    """What the default checkpoint says by the long way."""
    folder = resolve_model(DEFAULT_MODEL)
    return reference(Annotator.from_pretrained(folder, device="cpu"), posts)


def runtimes() -> list[str]:
    """What this processor runs: auto is bf16 where that is native."""
    native = choose_runtime("auto", "cpu").precision == "bf16"
    return ["torch", "openvino-f32", *(["openvino-bf16"] if native else [])]


def test_the_default_checkpoint_says_the_same_on_every_runtime(
    posts: list[Post], default_expected: list[Prediction]
) -> None:
    compare(Path(resolve_model(DEFAULT_MODEL)), posts, runtimes(), default_expected)


def test_pre_trained_encoders_say_the_same_on_every_runtime(
    fitted: Path, posts: list[Post]
) -> None:
    # Torch takes its time over these.
    some = posts[:240]
    expected = reference(Annotator.from_pretrained(str(fitted), device="cpu"), some)
    # Torch itself differs by image preparation only, which the default checkpoint shows.
    compare(fitted, some, runtimes()[1:], expected)
