"""Teaching new encoders the features of a larger checkpoint's encoders."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from drf_core.annotator import Annotator
from drf_core.corpus.posts import TrainingCorpus
from drf_core.corpus.views import encode_undisrupted, encode_views
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import clean_cell
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.choice import available_cores
from drf_core.runtimes.precision import autocast
from drf_core.training.batches import batches_of
from schemas.annotations import MODALITIES
from schemas.errors import UsageError


@dataclass(frozen=True)
class DistillationSettings:
    """Passes over the texts and over the images, batch size and peak learning rate.

    unlabelled_posts: how many of --unlabelled to learn from, drawn at random; 0 for all.
    """

    text_epochs: int = 8
    image_epochs: int = 20
    unlabelled_posts: int = 0
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    seed: int = 0


@dataclass(frozen=True)
class TeacherView:
    """What a larger checkpoint makes of a corpus, undisrupted.

    text (posts with a text, size), image (posts with an image, size): raw features, float16, in
    the order of the posts; present (posts, 2) bool; logits (posts, labels).
    """

    text: Tensor
    image: Tensor
    present: Tensor
    logits: Tensor


@torch.no_grad()
def look_as_teacher(teacher: DRFModel, corpus: TrainingCorpus) -> TeacherView:
    """Encode and predict every post of corpus, which must be made for the teacher's processor."""
    views = encode_undisrupted(teacher, corpus)
    present = torch.stack([views[m].present[:, 0] for m in MODALITIES], 1)
    prior = teacher.config.prior
    # What it says beside its prior: this training has its own.
    teacher.config.prior = None
    probabilities = outcomes(teacher, views, [clean_cell(len(corpus))])[0].probabilities
    teacher.config.prior = prior
    sizes = teacher.config.encoded_sizes
    text, image = (views[m].features[views[m].present[:, 0], 0, : sizes[m]] for m in MODALITIES)
    return TeacherView(text, image, present, torch.from_numpy(probabilities).log())


def judge_texts(teacher: str, texts: Sequence[str], threads: int) -> Tensor:
    """What a checkpoint says of texts alone, under a uniform prior; (texts, labels) probabilities.

    teacher: its folder. threads: as in `Annotator`. What cannot be read gets equal shares.
    """
    annotator = Annotator.from_pretrained(teacher, threads=threads, runtime="auto")
    annotator.prior = (1 / len(annotator.labels),) * len(annotator.labels)
    said = torch.full((len(texts), len(annotator.labels)), 1 / len(annotator.labels))
    # Batches of like lengths are padded least.
    rows = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in tqdm(range(0, len(rows), 256), "teacher reads texts", unit="batch"):
        read = [(row, annotator.prepare(texts[row], None)) for row in rows[start : start + 256]]
        usable = [(row, post) for row, post in read if post.usable]
        if usable:
            predictions = annotator.predict([post for _, post in usable])
            said[[row for row, _ in usable]] = torch.tensor([p.probabilities for p in predictions])
    return said


def distil_text_encoder(
    model: DRFModel, corpus: TrainingCorpus, view: TeacherView, settings: DistillationSettings
) -> float:
    """Teach model's text encoder the teacher's raw text features; returns the last mean cosine."""
    posts = view.present[:, 0].nonzero().flatten().tolist()
    tokens = [
        corpus.processor.token_ids(corpus.posts[i].text or "", corpus.max_tokens) for i in posts
    ]

    def forward(rows: Tensor) -> Tensor:
        ids = [tokens[i] for i in rows.tolist()]
        inputs = corpus.processor.collate(ids, [None] * len(ids), model.device)
        return model.encode_text(inputs["input_ids"], inputs["attention_mask"])

    return _distil(
        model.text_encoder,
        forward,
        view.text,
        model.config.encoded_sizes["text"],
        settings,
        settings.text_epochs,
        "text",
        np.array([len(ids) for ids in tokens]),
    )


@torch.no_grad()
def look_at_images(
    teacher: PreTrainedModel, image_processor: Any, model: DRFModel, corpus: TrainingCorpus
) -> tuple[Tensor, list[int]]:
    """What a pre-trained image encoder makes of a corpus, and of which posts it is.

    Returns features (images, size) float16 and the posts' numbers.
    """
    config = copy.deepcopy(model.config)
    config.vision_config, config.image_pooling = teacher.config, "mean"
    config.image_reduction = None
    processor = DRFProcessor(image_processor, corpus.processor.tokenizer)
    seeing = DRFModel(config, model.text_encoder, teacher)
    picture = processor.pixels(Image.new("RGB", (320, 320)))
    shown = processor.normalise(torch.from_numpy(picture[None]))
    config.image_feature_size = seeing.encode_image(shown).shape[1]
    seen = TrainingCorpus(corpus.posts, processor, corpus.max_tokens)
    views = encode_views(seeing, seen, "image", [], 0)
    present = views.present[:, 0]
    features = views.features[present, 0, : config.image_feature_size]
    return features, present.nonzero().flatten().tolist()


def distil_image_encoder(
    model: DRFModel,
    corpus: TrainingCorpus,
    features: Tensor,
    posts: list[int],
    settings: DistillationSettings,
    folder: Path,
    pretrained: bool = False,
) -> float:
    """Teach model's image encoder the features of another; returns the last mean cosine.

    features (images, size): of the posts with these numbers. The student sees its images flipped
    and shifted at random. folder: of the file that holds their pixels meanwhile. pretrained: it
    has learned before, and its batch norm stays as it is. Where its features are reduced, what
    distinguishes most of the other's images is kept.
    """
    decoded: list[int] = []
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in tqdm(range(0, len(posts), 256), "images", unit="batch", disable=None):
            for row, image in enumerate(pool.map(corpus.pixels, posts[start : start + 256]), start):
                if image is not None:
                    file.write(image.tobytes())
                    decoded.append(row)
                    shape = image.shape
    if not decoded:
        raise UsageError("--posts: there are no posts with an image to learn from")
    pixels = np.memmap(file, np.uint8, "r", shape=(len(decoded), *shape))
    rng = np.random.default_rng(settings.seed)

    def forward(rows: Tensor) -> Tensor:
        given = torch.from_numpy(pixels[rows.numpy()])
        shown = _flipped_and_shifted(given, rng).to(model.device)
        inputs = corpus.processor.normalise(shown).contiguous(memory_format=torch.channels_last)
        return model.encode_image(inputs)

    model.image_encoder.to(memory_format=torch.channels_last)
    size = model.config.encoded_sizes["image"]
    start = None
    if pretrained and model.config.image_feature_size == features.shape[1]:
        # Likely its own teacher at another size: what it says already is where to start.
        start = torch.eye(size)
        if model.config.image_reduction:
            start = _principal_directions(features, size)
            model.image_reduction.load_state_dict({"weight": start})
    return _distil(
        nn.ModuleList([model.image_encoder, model.image_reduction]),
        forward,
        features[decoded],
        size,
        settings,
        settings.image_epochs,
        "image",
        pretrained=pretrained,
        start=start,
    )


def _principal_directions(features: Tensor, count: int) -> Tensor:
    """Directions in which features (n, size) vary most, orthonormal; (count, size)."""
    mean = features.mean(0, dtype=torch.float32)
    scatter = torch.zeros(len(mean), len(mean))
    for part in features.split(4096):
        centred = part.float() - mean
        scatter += centred.T @ centred
    _, vectors = torch.linalg.eigh(scatter)
    return vectors[:, -count:].flip(1).T.contiguous()


def _flipped_and_shifted(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
    reach = pixels.shape[-1] // 16
    down, right = (int(rng.integers(-reach, reach + 1)) for _ in range(2))
    return pixels.roll((down, right), (-2, -1))


def _distil(
    encoder: nn.Module,
    forward: Callable[[Tensor], Tensor],
    target: Tensor,
    size: int,
    settings: DistillationSettings,
    epochs: int,
    name: str,
    lengths: np.ndarray | None = None,
    pretrained: bool = False,
    start: Tensor | None = None,
) -> float:
    if len(target) < 2:
        raise UsageError(f"--teacher: there are too few posts with {name} to learn from")
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    device = next(encoder.parameters()).device
    mean = target.mean(0, dtype=torch.float32)
    spread = sum((part.float() - mean).square().sum(0) for part in target.split(4096))
    scale = (torch.as_tensor(spread) / (len(target) - 1)).sqrt()
    scale = scale.clamp_min(0.05 * float(scale.mean()) + 1e-6)
    head = nn.Linear(size, target.shape[1]).to(device)
    if start is not None:
        # Of features as they are, or reduced along start (size, features): standardised as the
        # target is.
        with torch.no_grad():
            head.weight.copy_(start.T / scale[:, None])
            head.bias.copy_(-(start.T @ (start @ mean)) / scale)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = epochs * -(-len(target) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(2, steps + 1), pct_start=0.05
    )
    encoder.train()
    for module in encoder.modules():
        if pretrained and isinstance(module, nn.BatchNorm2d):
            module.eval()
    cosine = 0.0
    for epoch in range(epochs):
        total = 0.0
        batches = batches_of(len(target), settings.batch_size, rng, lengths)
        for rows in tqdm(batches, f"distilling {name}, epoch {epoch + 1}", unit="batch"):
            with autocast(device):
                guess = head(forward(rows))
            wanted = ((target[rows].float() - mean) / scale).to(device)
            similarity = functional.cosine_similarity(guess.float(), wanted).mean()
            loss = functional.mse_loss(guess.float(), wanted) + 1 - similarity
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(similarity.detach()) * len(rows)
        cosine = total / len(target)
    encoder.eval()
    return cosine
