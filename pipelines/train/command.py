"""The job behind `drf train`: labelled posts in, a checkpoint out."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drf_core.checkpoint import read_checkpoint
from pipelines.console.command_line import command_line, shown
from pipelines.console.messages import say
from pipelines.console.options import add_labelled_posts_options
from pipelines.posts.find import check_paths
from pipelines.storage.checkpoints import check_encoder, resolve_model
from pipelines.storage.local import local_folder
from pipelines.storage.redaction import redact
from pipelines.train.tracking import TRACKERS, tracking
from schemas.errors import UsageError
from schemas.posts import parse_columns

if TYPE_CHECKING:
    from drf_core.corpus.posts import TrainingPost
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor
    from drf_core.training.settings import Track
    from pipelines.train.config import TrainConfig
    from pipelines.train.corpora import Corpora


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf train`."""
    add = parser.add_argument
    add(
        "--posts",
        action="append",
        nargs="+",
        required=True,
        metavar="PATH",
        help="labelled posts of one corpus: files, folders or globs; again for each other corpus",
    )
    add(
        "--validation",
        nargs="+",
        default=[],
        metavar="PATH",
        help="labelled posts that choose the epoch and calibrate qualities and confidence; "
        "default: a tenth of --posts, held out with whatever shares a text or an image with it",
    )
    add(
        "--test",
        nargs="+",
        default=[],
        metavar="PATH",
        help="labelled posts that nothing is chosen on, for the figures of the model card; "
        "default: the validation posts",
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
    add(
        "--config",
        metavar="FILE",
        help="JSON with sections model, small, training, distillation, card",
    )
    add(
        "--teacher",
        metavar="DIR|HUB_ID",
        help="a DRF checkpoint with the same labels to learn from; with a section text_expert in "
        "--config it judges every text that the text encoder is tuned on",
    )
    add(
        "--unlabelled",
        nargs="+",
        default=[],
        metavar="PATH",
        help="posts without labels, whose words become familiar; learned from with --teacher",
    )
    add(
        "--weights",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="for each --posts, the share of its posts that the fusion is trained on; "
        "the text encoder is tuned on all of them; default: 1 for each",
    )
    add(
        "--auxiliary",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="texts with labels of their own (emoji, emotions) that the text encoder also learns; "
        "needs a section text_expert in --config",
    )
    add(
        "--image-teacher",
        metavar="DIR|HUB_ID",
        help="a pre-trained image encoder whose features the small one learns",
    )
    add(
        "--reference",
        nargs="+",
        default=[],
        metavar="PATH",
        help="posts without labels, as the job will see them, that qualities are ranked among; "
        "default: the validation posts",
    )
    add(
        "--restart",
        action="store_true",
        help="begin anew where --output holds a checkpoint, or another training was stopped",
    )
    add(
        "--track",
        choices=TRACKERS,
        help="tell losses and accuracies to TensorBoard (in OUTPUT.tensorboard) or MLflow, too",
    )
    add_labelled_posts_options(parser, "of all that is drawn")


def run_train(args: argparse.Namespace) -> int:
    """Train, evaluate and save; returns the exit code.

    Raises UsageError for posts, encoders or settings that nothing can be trained with.
    """
    check_paths([path for corpus in args.posts for path in corpus], "--posts")
    for option in ("validation", "test", "unlabelled", "reference"):
        check_paths(getattr(args, option), f"--{option}")
    for option in ("text-encoder", "image-encoder", "image-teacher"):
        check_encoder(getattr(args, option.replace("-", "_")), f"--{option}")
    given = {} if args.config is None else _read_config(args.config)
    if args.teacher:
        read_checkpoint(resolve_model(args.teacher, "--teacher"))
    import dataclasses

    import torch
    from transformers.utils import logging

    from drf_core.runtimes.choice import available_cores, choose_device
    from pipelines.train import resume
    from pipelines.train.config import train_config
    from pipelines.train.corpora import read_corpora

    config = train_config(args.config, given, args.seed)
    output = local_folder(args.output)
    folder = resume.state_folder(output, args.restart)
    device = choose_device(args.device)
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads or available_cores())
    torch.manual_seed(args.seed)
    facts = {
        "text_encoder": shown(args.text_encoder),
        "image_encoder": shown(args.image_encoder),
        **dataclasses.asdict(config.training),
    }
    with tracking(args.track, output, folder, facts) as track:
        corpora = read_corpora(args, config, folder)
        say(
            f"{shown(args.text_encoder)} and {shown(args.image_encoder)}, up to "
            f"{config.training.epochs} epochs on {device.type}, into {args.output}; "
            "one that is stopped goes on by the same command"
        )
        resume.begin(folder, _decisive(args, config, corpora), corpora.posts + corpora.validation)
        model, processor = resume.initial_model(
            folder, lambda: _build(args, config, corpora.labels, corpora.texts)
        )
        _train(args, config, corpora, folder, model.to(device), processor, track)
    resume.end(folder)
    say(f"checkpoint in {args.output}, its card in README.md there; next, for example:")
    say(f"  {_next_command(args, corpora.labels)}")
    return 0


def _read_config(path: str) -> dict[str, Any]:
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--config {path}: is not valid JSON ({error})") from error
    if not isinstance(given, dict):
        raise UsageError(f"--config {path}: is not a JSON object of sections")
    return given


def _next_command(args: argparse.Namespace, labels: tuple[str, ...]) -> str:
    """What is done first with a checkpoint, as it is typed."""
    if not args.test:
        words = ["annotate", "--input", "POSTS", "--output", "annotated", "--model", args.output]
        return shlex.join(["drf", *words])
    words = ["evaluate", "--posts", *args.test, "--model", args.output]
    if set(labels) == {"negative", "neutral", "positive"}:
        words += ["--model", "default"]
    words += [f"--column={column}" for column in args.column]
    if args.label_column != "label":
        words += ["--label-column", args.label_column]
    if args.image_folder:
        words += ["--image-folder", args.image_folder]
    return redact(shlex.join(["drf", *words, "--output", "evaluation"]))


def _decisive(args: argparse.Namespace, config: TrainConfig, corpora: Corpora) -> object:
    """All that decides what a training learns, but for its posts."""
    facts = (args.text_encoder, args.image_encoder, args.teacher, args.image_teacher,
             corpora.labels, config.model, config.small, config.shrink, config.text_expert,
             config.text_adaptation, config.training, config.distillation)  # fmt: skip
    return (*facts, [(task.head, task.passes, task.texts) for task in corpora.tasks])


def _train(
    args: argparse.Namespace,
    config: TrainConfig,
    corpora: Corpora,
    folder: Path,
    model: DRFModel,
    processor: DRFProcessor,
    track: Track,
) -> None:
    """Train what was built, from where folder has it, and write the checkpoint with its card."""
    from drf_core.corpus.posts import TrainingCorpus
    from drf_core.corpus.views import encode_views
    from drf_core.evaluation.quick import evaluate, suspicions
    from drf_core.training.model_card import figures_table
    from drf_core.training.text_expert import TextExpert
    from drf_core.training.trainer import EVALUATION_SEED, Trainer, validation_kinds
    from pipelines.train import resume
    from pipelines.train.card import write_training_card
    from pipelines.train.save import save_checkpoint
    from pipelines.train.teachers import (
        judged_tasks,
        learn_from_image_teacher,
        learn_from_teacher,
    )

    posts, settings = corpora.posts, config.training
    heads = None
    tuned_on = corpora.tasks
    if args.teacher:
        tuned_on = judged_tasks(args, folder, corpora.labels, tuned_on)
    for stage, tasks, how in (
        ("text_expert", tuned_on, config.text_expert),
        ("text_adaptation", corpora.adaptation, config.text_adaptation),
    ):
        if tasks and how is not None:
            expert = TextExpert(model, processor, tasks, how)
            if heads is not None:
                expert.heads.load_state_dict(heads.state_dict(), strict=False)
            tell = partial(_tell, track, stage)
            expert.run(str(folder / f"{stage}.pt"), say, tell)
            heads = expert.heads
    tokens = model.config.max_text_tokens
    corpus = TrainingCorpus(posts, processor, tokens)
    validation = TrainingCorpus(corpora.validation, processor, tokens)
    logits = learn_from_teacher(args, config, folder, model, corpus) if args.teacher else None
    if args.image_teacher:
        learn_from_image_teacher(args, config, folder, model, corpus)
    frozen = {
        "text": () if settings.train_text_encoder else settings.text_kinds,
        "image": () if settings.train_image_encoder else settings.image_kinds,
    }
    views, validation_views = {}, {}
    for m, kinds in frozen.items():
        if kinds:
            copies = [kind for kind in kinds for _ in range(settings.views_per_kind)]
            views[m] = resume.encode_frozen(folder, "train", model, corpus, m, copies, args.seed)
            validation_views[m] = resume.encode_frozen(
                folder, "validation", model, validation, m, validation_kinds(kinds), EVALUATION_SEED
            )
    reference = None
    if args.reference:
        given, model.config.reference_files = _read_reference(args, folder)
        reference = TrainingCorpus(given, processor, tokens)
    say("fitting the distributions of damaged and undamaged features")
    trainer = Trainer(
        model, corpus, validation, settings, views, validation_views, logits, reference
    )
    trainer.run(str(folder), say, track)
    seen, judged = trainer.look_at_validation(model), validation
    if corpora.test:
        judged = TrainingCorpus(corpora.test, processor, tokens)
        say(f"judging the checkpoint by {len(judged)} test posts")
        seen = {m: encode_views(model, judged, m, ["corrupt"], EVALUATION_SEED) for m in seen}
    prior = judged.priors(len(corpora.labels)).mean(0).numpy()
    figures = evaluate(model, seen, judged.labels.numpy())
    matched = evaluate(model, seen, judged.labels.numpy(), prior)
    for suspicion in suspicions(figures):
        say(f"warning: {suspicion}")
    known = _known(corpora.test, posts + corpora.validation)
    if known:
        say(f"warning: --test: {known} posts are also among those trained or validated on")
    counts = (len(posts), len(judged), known)
    output = Path(args.output)
    save_checkpoint(output, model, processor, config.card.half_precision_weights)
    command = command_line("train", add_train_arguments, args)
    write_training_card(args, command, config, output, model, figures, matched, counts)
    held_out = "test" if args.test else "validation"
    say(f"on the {len(judged)} {held_out} posts, under the checkpoint's prior:")
    say(figures_table(figures))


def _tell(track: Track, stage: str, figures: Mapping[str, float], step: int) -> None:
    track({f"{stage}/{name}": value for name, value in figures.items()}, step)


def _known(posts: list[TrainingPost], others: list[TrainingPost]) -> int:
    """How many of the posts are, text and image, among others."""
    contents = {(post.text, post.image) for post in others}
    return sum((post.text, post.image) in contents for post in posts)


def _read_reference(args: argparse.Namespace, folder: Path) -> tuple[list[TrainingPost], list[str]]:
    """The posts of --reference, and those of their files that a night's report knows again."""
    from pipelines.posts.labelled import read_training_rows, to_training_posts
    from pipelines.posts.names import told_apart

    rows = read_training_rows(
        args.reference, parse_columns(args.column, args.image_folder), None, "--reference", folder
    )
    return to_training_posts(rows, (), "--reference"), told_apart(row.file for row in rows)


def _build(
    args: argparse.Namespace, config: TrainConfig, labels: tuple[str, ...], texts: list[str]
) -> tuple[DRFModel, DRFProcessor]:
    from drf_core.training.building import build_model

    try:
        return build_model(
            args.text_encoder,
            args.image_encoder,
            labels,
            texts,
            config.small,
            config.shrink,
            **config.model,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"--config {args.config}: no model can be built: {error}") from error
