"""What a training learns from larger checkpoints and pre-trained encoders."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from drf_core.checkpoint import CheckpointInfo, read_checkpoint
from drf_core.corpus.posts import TrainingCorpus
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.model.weights import load_model
from drf_core.training.building import SMALL, load_image_encoder
from drf_core.training.distillation import (
    distil_image_encoder,
    distil_text_encoder,
    judge_texts,
    look_as_teacher,
    look_at_images,
)
from drf_core.training.text_expert import TextTask
from pipelines.console.messages import say
from pipelines.storage.checkpoints import resolve_model
from pipelines.train.config import TrainConfig
from pipelines.train.resume import once
from schemas.errors import UsageError

# The parts of a model that learn to see.
_SEEING = ("image_encoder.", "image_reduction.")


def judged_tasks(
    args: argparse.Namespace, folder: Path, labels: tuple[str, ...], tasks: list[TextTask]
) -> list[TextTask]:
    """The tasks of the text encoder, and what the teacher says of their texts."""
    texts = [text for task in tasks for text in task.texts]
    if not texts:
        return tasks
    teacher = _read_teacher(args, labels).folder

    def judge() -> dict[str, Tensor]:
        return {"judged": judge_texts(teacher, texts, args.threads)}

    parts = once(folder / "judged.safetensors", judge)["judged"].split(
        [len(task.texts) for task in tasks]
    )
    return [replace(task, judged=part) for task, part in zip(tasks, parts, strict=True)]


def _read_teacher(args: argparse.Namespace, labels: tuple[str, ...]) -> CheckpointInfo:
    """Look at --teacher; raises UsageError where its labels are not those of the posts."""
    teacher = read_checkpoint(resolve_model(args.teacher, "--teacher"))
    if teacher.labels != labels:
        raise UsageError(
            f"--teacher {args.teacher}: its labels are {', '.join(teacher.labels)}, "
            f"those of the posts {', '.join(labels)}"
        )
    return teacher


def learn_from_teacher(
    args: argparse.Namespace,
    config: TrainConfig,
    folder: Path,
    model: DRFModel,
    corpus: TrainingCorpus,
) -> Tensor:
    """Distil small encoders; return the teacher's logits of every post."""
    info = _read_teacher(args, model.config.labels)

    def distil() -> dict[str, Tensor]:
        teacher = load_model(info.folder).to(model.device)
        processor = DRFProcessor.from_pretrained(info.folder)
        seen = TrainingCorpus(corpus.posts, processor, teacher.config.max_text_tokens)
        view = look_as_teacher(teacher, seen)
        if args.text_encoder == SMALL and config.text_expert is None:
            cosine = distil_text_encoder(model, corpus, view, config.distillation)
            say(f"text encoder distilled from {len(view.text)} texts, mean cosine {cosine:.3f}")
        if args.image_encoder == SMALL and not args.image_teacher:
            rows = view.present[:, 1].nonzero().flatten().tolist()
            cosine = distil_image_encoder(
                model, corpus, view.image, rows, config.distillation, folder
            )
            say(f"image encoder distilled from {len(view.image)} images, mean cosine {cosine:.3f}")
        encoders = {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith(("text_encoder.", *_SEEING))
        }
        return {**encoders, "teacher_logits": view.logits}

    kept = once(folder / "distilled.safetensors", distil)
    logits = kept["teacher_logits"]
    model.load_state_dict(
        {name: value for name, value in kept.items() if name != "teacher_logits"}, strict=False
    )
    return logits


def learn_from_image_teacher(
    args: argparse.Namespace,
    config: TrainConfig,
    folder: Path,
    model: DRFModel,
    corpus: TrainingCorpus,
) -> None:
    """Teach the image encoder the features of a pre-trained one."""

    def distil() -> dict[str, Tensor]:
        teacher, image_processor = load_image_encoder("--image-teacher", args.image_teacher)
        target, rows = look_at_images(teacher, image_processor, model, corpus)
        cosine = distil_image_encoder(
            model, corpus, target, rows, config.distillation, folder, args.image_encoder != SMALL
        )
        say(f"image encoder distilled from {len(rows)} images, mean cosine {cosine:.3f}")
        return {n: value for n, value in model.state_dict().items() if n.startswith(_SEEING)}

    model.load_state_dict(once(folder / "image_distilled.safetensors", distil), strict=False)
