"""Teaching new encoders the features of a larger checkpoint's encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from drf_core.annotator import available_cores
from drf_core.modeling_drf import DRFModel
from drf_core.processing_drf import DRFProcessor
from drf_core.training_corpus import TrainingCorpus, autocast, encode_pixels


@dataclass(frozen=True)
class DistillationSettings:
    """Passes over the texts and over the images, batch size and peak learning rate."""

    text_epochs: int = 12
    image_epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0


def distil_text_encoder(
    model: DRFModel,
    processor: DRFProcessor,
    teacher: DRFModel,
    teacher_processor: DRFProcessor,
    texts: Sequence[str],
    settings: DistillationSettings,
) -> float:
    """Teach model's text encoder the teacher's raw text features; returns the last mean cosine.

    texts: any, labelled or not; no text may be blank.
    """
    order = np.argsort([len(text) for text in texts])
    target = torch.zeros(len(texts), teacher.config.text_feature_size)
    for rows in tqdm(
        np.array_split(order, max(1, len(texts) // 128)), "teacher reads", unit="batch"
    ):
        with torch.no_grad(), autocast(teacher.device):
            target[rows] = _encode_texts(teacher, teacher_processor, [texts[i] for i in rows]).cpu()
    tokens = [processor.token_ids(text, model.config.max_text_tokens) for text in texts]

    def forward(rows: Tensor) -> Tensor:
        inputs = processor.collate(
            [tokens[i] for i in rows.tolist()], [None] * len(rows), model.device
        )
        return model.encode_text(inputs["input_ids"], inputs["attention_mask"])

    lengths = np.array([len(ids) for ids in tokens])
    return _distil(
        model.text_encoder,
        forward,
        target,
        model.config.text_feature_size,
        settings,
        settings.text_epochs,
        "text",
        lengths,
    )


def distil_image_encoder(
    model: DRFModel,
    processor: DRFProcessor,
    teacher: DRFModel,
    teacher_corpus: TrainingCorpus,
    corpus: TrainingCorpus,
    settings: DistillationSettings,
) -> float:
    """Teach model's image encoder the teacher's raw image features; returns the last mean cosine.

    teacher_corpus, corpus: the same posts, for the teacher's and the model's processor. The
    student sees its images flipped and shifted at random.
    """
    images, targets = [], []
    with_image = corpus.image_present.nonzero().flatten().tolist()
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in tqdm(range(0, len(with_image), 64), "teacher looks", unit="batch"):
            batch = with_image[start : start + 64]
            both = [
                (mine, its)
                for mine, its in zip(
                    pool.map(corpus.pixels, batch),
                    pool.map(teacher_corpus.pixels, batch),
                    strict=True,
                )
                if mine is not None and its is not None
            ]
            if both:
                images += [mine for mine, _ in both]
                looked_at = torch.from_numpy(np.stack([its for _, its in both]))
                targets.append(encode_pixels(teacher, teacher_corpus.processor, looked_at).cpu())
    pixels, rng = torch.from_numpy(np.stack(images)), np.random.default_rng(settings.seed)

    def forward(rows: Tensor) -> Tensor:
        shown = _flipped_and_shifted(pixels[rows], rng).to(model.device)
        inputs = processor.normalise(shown).contiguous(memory_format=torch.channels_last)
        return model.encode_image(inputs)

    model.image_encoder.to(memory_format=torch.channels_last)
    return _distil(
        model.image_encoder,
        forward,
        torch.cat(targets),
        model.config.image_feature_size,
        settings,
        settings.image_epochs,
        "image",
    )


def _encode_texts(model: DRFModel, processor: DRFProcessor, texts: Sequence[str]) -> Tensor:
    ids = [processor.token_ids(text, model.config.max_text_tokens) for text in texts]
    inputs = processor.collate(ids, [None] * len(ids), model.device)
    return model.encode_text(inputs["input_ids"], inputs["attention_mask"])


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
) -> float:
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    device = next(encoder.parameters()).device
    mean, scale = target.mean(0), target.std(0)
    target = (target - mean) / scale.clamp_min(0.05 * float(scale.mean()) + 1e-6)
    head = nn.Linear(size, target.shape[1]).to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = epochs * -(-len(target) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(2, steps + 1), pct_start=0.05
    )
    encoder.train()
    cosine = 0.0
    for epoch in range(epochs):
        total = 0.0
        batches = _batches(len(target), settings.batch_size, rng, lengths)
        for rows in tqdm(batches, f"distilling {name}, epoch {epoch + 1}", unit="batch"):
            with autocast(device):
                guess = head(forward(rows))
            wanted = target[rows].to(device)
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


def _batches(
    count: int, size: int, rng: np.random.Generator, lengths: np.ndarray | None
) -> list[Tensor]:
    """Batches in random order; with lengths, of posts about equally long, to pad little."""
    order = rng.permutation(count)
    if lengths is not None:
        chunk = 50 * size
        order = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in (order[i : i + chunk] for i in range(0, count, chunk))
            ]
        )
    batches = [torch.from_numpy(order[i : i + size]) for i in range(0, count, size)]
    return [batches[i] for i in rng.permutation(len(batches))]
