"""The job behind `drf train`: labelled posts in, a checkpoint out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shlex
import sys
from pathlib import Path
from typing import Any

from schemas.errors import DRFError, UsageError
from schemas.posts import parse_columns

# What may be stored in half precision: everything large whose last digits do not matter.
_HALVED = ("text_encoder.", "image_encoder.", "undisrupted_queue.", "disrupted_queues.")
_SECTIONS = ("model", "small", "training", "distillation", "card")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf train`."""
    add = parser.add_argument
    add("--posts", nargs="+", required=True, metavar="PATH", help="labelled posts (Parquet)")
    add(
        "--validation",
        nargs="+",
        required=True,
        metavar="PATH",
        help="labelled posts that choose the epoch and calibrate qualities and confidence",
    )
    add(
        "--text-encoder",
        required=True,
        metavar="DIR|HUB_ID|small",
        help="pre-trained text encoder, or `small` for one built without pre-training",
    )
    add(
        "--image-encoder",
        required=True,
        metavar="DIR|HUB_ID|small",
        help="pre-trained image encoder, or `small`",
    )
    add("--output", required=True, metavar="DIR", help="folder of the checkpoint")
    add("--config", metavar="FILE", help="JSON with sections " + ", ".join(_SECTIONS))
    add(
        "--teacher",
        metavar="DIR|HUB_ID",
        help="a DRF checkpoint with the same labels to learn from",
    )
    add(
        "--unlabelled",
        nargs="+",
        default=[],
        metavar="PATH",
        help="posts without labels, learned from with --teacher",
    )
    add("--label-column", default="label", metavar="NAME")
    add(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="which column is post_id, text, image or image_uri; `image=` for none",
    )
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=0, help="torch threads, 0 for one per core")
    add("--seed", type=int, default=0)


def run_train(args: argparse.Namespace) -> int:
    """Train, evaluate and save; returns the exit code."""
    config = read_config(args.config)
    output = _prepare_output(args.output)
    _Training(args, config, output).run()
    return 0


def read_config(path: str | None) -> dict[str, Any]:
    """Sections of a configuration file; raises UsageError for unknown sections or values."""
    from drf_core.distillation import DistillationSettings
    from drf_core.training import TrainingSettings

    if path is None:
        return {section: {} for section in _SECTIONS}
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except ValueError as error:
        raise UsageError(f"--config {path}: is not valid JSON ({error})") from error
    unknown = sorted(set(given) - set(_SECTIONS))
    if unknown:
        raise UsageError(
            f"--config {path}: unknown section {unknown[0]!r}; there are {', '.join(_SECTIONS)}"
        )
    for section, settings in (
        ("training", TrainingSettings),
        ("distillation", DistillationSettings),
    ):
        known = {field.name for field in dataclasses.fields(settings)}
        wrong = sorted(set(given.get(section, {})) - known)
        if wrong:
            raise UsageError(
                f"--config {path}: unknown value {section}.{wrong[0]}; "
                f"there are {', '.join(sorted(known))}"
            )
    return {section: given.get(section, {}) for section in _SECTIONS}


def _prepare_output(folder: str) -> Path:
    output = Path(folder)
    try:
        (output / "_training").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DRFError(f"--output {folder}: cannot be written: {error.strerror}") from error
    return output


class _Training:
    """The steps of one training; intermediate results live in OUTPUT/_training."""

    def __init__(self, args: argparse.Namespace, config: dict[str, Any], output: Path) -> None:
        import torch
        from transformers.utils import logging

        from drf_core.annotator import available_cores, choose_device
        from drf_core.distillation import DistillationSettings
        from drf_core.training import TrainingSettings

        logging.disable_progress_bar()
        self.args, self.config, self.output = args, config, output
        self.work = output / "_training"
        self.device = choose_device(args.device)
        torch.set_num_threads(args.threads or available_cores())
        torch.manual_seed(args.seed)
        self.settings = TrainingSettings(**{"seed": args.seed, **config["training"]})
        self.distillation = DistillationSettings(**{"seed": args.seed, **config["distillation"]})

    def run(self) -> None:
        """Read, build, distil, train, evaluate, save."""
        from drf_core.evaluation import evaluate
        from drf_core.training import STATE_FILE, Trainer
        from drf_core.training_corpus import TrainingCorpus

        labels = self._read()
        self.model, self.processor = self._new_model(labels)
        self.model.to(self.device)
        tokens = self.model.config.max_text_tokens
        self.corpus = TrainingCorpus(self.posts, self.processor, tokens)
        validation = TrainingCorpus(self.validation_posts, self.processor, tokens)
        logits = self._learn_from_teacher() if self.args.teacher else None
        if not self.settings.train_image_encoder:
            self._encode_images(self.corpus, "train")
            self._encode_images(validation, "validation")
        try:
            trainer = Trainer(self.model, self.corpus, validation, self.settings, logits)
            trainer.run(str(self.work), _say)
        except ValueError as error:
            raise UsageError(str(error)) from error
        figures = evaluate(self.model, validation, self.settings.seed)
        self._save(figures, len(validation))
        _say(f"checkpoint in {self.output}; training state in {self.work / STATE_FILE}")

    def _new_model(self, labels: tuple[str, ...]) -> tuple[Any, Any]:
        """Build the model, or load the one that the training to resume began with."""
        from drf_core.encoders import build_model
        from drf_core.modeling_drf import DRFModel
        from drf_core.processing_drf import DRFProcessor

        # Training a tokenizer twice may number its pieces in another order.
        folder, done = self.work / "initial", self.work / "initial" / "done"
        if done.exists():
            return DRFModel.from_pretrained(folder), DRFProcessor.from_pretrained(str(folder))
        texts = [post.text for post in self.posts if post.text]
        model, processor = build_model(
            self.args.text_encoder,
            self.args.image_encoder,
            labels,
            texts,
            self.config["small"],
            **self.config["model"],
        )
        model.save_pretrained(folder)
        processor.save_pretrained(str(folder))
        done.touch()
        return model, processor

    def _read(self) -> tuple[str, ...]:
        from pipelines.training_posts import labels_of, read_training_rows, to_training_posts

        columns = parse_columns(self.args.column)
        train = read_training_rows(self.args.posts, columns, self.args.label_column)
        validation = read_training_rows(self.args.validation, columns, self.args.label_column)
        labels = labels_of(train)
        self.posts = [p for p in to_training_posts(train, labels, "--posts") if p.text or p.image]
        self.labelled = sum(post.label >= 0 for post in self.posts)
        self.validation_posts = to_training_posts(validation, labels, "--validation")
        if not self.validation_posts:
            raise UsageError("--validation: holds no posts")
        if self.args.unlabelled:
            if not self.args.teacher:
                raise UsageError("--unlabelled: needs --teacher to learn from")
            rows = read_training_rows(self.args.unlabelled, columns, None)
            wanted = self.distillation.unlabelled_posts
            if wanted and wanted < len(rows):
                rows = random.Random(self.args.seed).sample(rows, wanted)
            self.posts += [p for p in to_training_posts(rows, labels, "") if p.text or p.image]
        _say(
            f"{len(self.posts)} posts to train on ({self.labelled} labelled), "
            f"{len(self.validation_posts)} to validate; labels {', '.join(labels)}"
        )
        return labels

    def _learn_from_teacher(self) -> Any:
        import torch
        from safetensors.torch import load_file, save_file

        from drf_core.checkpoint import read_checkpoint, resolve_model
        from drf_core.distillation import (
            distil_image_encoder,
            distil_text_encoder,
            look_as_teacher,
        )
        from drf_core.encoders import SMALL
        from drf_core.modeling_drf import DRFModel
        from drf_core.processing_drf import DRFProcessor
        from drf_core.training_corpus import TrainingCorpus

        info = read_checkpoint(resolve_model(self.args.teacher))
        if info.labels != self.model.config.labels:
            raise UsageError(
                f"--teacher {self.args.teacher}: its labels are {', '.join(info.labels)}, "
                f"those of the posts {', '.join(self.model.config.labels)}"
            )
        saved = self.work / "distilled.safetensors"
        if saved.exists():
            kept = load_file(saved)
            logits = kept.pop("teacher_logits")
            self.model.load_state_dict(kept, strict=False)
            return logits
        teacher = DRFModel.from_pretrained(info.folder, dtype=torch.float32).to(self.device)
        processor = DRFProcessor.from_pretrained(info.folder)
        corpus = TrainingCorpus(self.posts, processor, teacher.config.max_text_tokens)
        view = look_as_teacher(teacher, corpus)
        if self.args.text_encoder == SMALL:
            cosine = distil_text_encoder(self.model, self.corpus, view, self.distillation)
            _say(f"text encoder distilled from {len(view.text)} texts, mean cosine {cosine:.3f}")
        if self.args.image_encoder == SMALL:
            cosine = distil_image_encoder(self.model, self.corpus, view, self.distillation)
            _say(f"image encoder distilled from {len(view.image)} images, mean cosine {cosine:.3f}")
        encoders = {
            name: value.contiguous()
            for name, value in self.model.state_dict().items()
            if name.startswith(("text_encoder.", "image_encoder."))
        }
        save_file({**encoders, "teacher_logits": view.logits}, saved)
        return view.logits

    def _encode_images(self, corpus: Any, name: str) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        from drf_core.training_corpus import ImageViews

        kinds = self.settings.image_kinds
        saved = self.work / f"image_views_{name}.safetensors"
        if saved.exists():
            kept = load_file(saved)
            if len(kept["present"]) == len(corpus):
                corpus.use_views(
                    ImageViews(
                        kept["features"], kept["kinds"], kept["present"].bool(), tuple(kinds)
                    )
                )
                return
        # Validation needs the paper's corruption of every image, not a mixture of kinds.
        wanted, views = (kinds, self.settings.image_views) if name == "train" else (["corrupt"], 1)
        corpus.encode_images(self.model, wanted, views, self.settings.seed, f"images ({name})")
        views_of = corpus.views
        save_file(
            {
                "features": views_of.features,
                "kinds": views_of.kinds,
                "present": views_of.present.to(torch.uint8),
            },
            saved,
        )

    def _save(self, figures: dict[str, dict[str, float]], validation: int) -> None:
        import torch

        from drf_core.model_card import CardFacts, figures_table, write_card

        state = self.model.state_dict()
        if self.config["card"].get("half_precision_weights"):
            state = {
                name: value.half()
                if name.startswith(_HALVED) and value.dtype == torch.float32
                else value
                for name, value in state.items()
            }
        self.model.save_pretrained(self.output, state_dict=state)
        self.processor.save_pretrained(str(self.output))
        facts = CardFacts(
            name=self.config["card"].get("name", self.output.name),
            labels=self.model.config.labels,
            text_encoder=_shown(self.args.text_encoder),
            image_encoder=_shown(self.args.image_encoder),
            training_posts=len(self.posts),
            validation_posts=validation,
            parameters=sum(p.numel() for p in self.model.parameters()),
            command=_command(self.args),
            notes=self.config["card"].get("notes", ""),
        )
        (self.output / "README.md").write_text(write_card(facts, figures), encoding="utf-8")
        _say(figures_table(figures))


def _command(args: argparse.Namespace) -> str:
    """The command line that the arguments stand for, without options left at their default."""
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    words = ["drf", "train"]
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest == "help" or value == action.default:
            continue
        values = value if isinstance(value, list) else [str(value)]
        words += [action.option_strings[0], *map(_shown, values)]
    return shlex.join(words)


def _shown(path: str) -> str:
    """A path as the card may show it: absolute ones by their last two parts."""
    return os.path.join(*Path(path).parts[-2:]) if os.path.isabs(path) else path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
