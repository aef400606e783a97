"""The job behind `drf evaluate`: models compared on labelled posts, disrupted in many ways."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drf_core.write_whole import write_whole
from pipelines.console.command_line import command_line, shown
from pipelines.console.messages import say
from pipelines.console.options import add_labelled_posts_options, add_posts_option
from pipelines.posts.find import check_paths
from pipelines.storage.local import local_folder
from schemas.errors import UsageError
from schemas.evaluation import EVALUATION_SCHEMA, EVALUATION_SCHEMA_VERSION
from schemas.posts import parse_columns

if TYPE_CHECKING:
    from drf_core.checkpoint import CheckpointInfo
    from drf_core.evaluation.protocol import Cell
    from pipelines.evaluate.details import PostPlace
    from pipelines.evaluate.features import ViewStore
    from pipelines.evaluate.posts import EvaluationPosts
    from pipelines.evaluate.records import EvaluatedModel, Record

RESAMPLES = 2000
_NAME = re.compile(r"[\w.+-]+")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf evaluate`."""
    add = parser.add_argument
    add_posts_option(parser, "labelled posts")
    add(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]DIR|HUB_ID",
        help="a checkpoint to evaluate, once per model; the folder's name stands in the "
        "results unless NAME is given",
    )
    add("--output", required=True, metavar="DIR", help="folder of the results")
    add(
        "--baseline",
        metavar="NAME",
        help="the model that the others are compared with (default: the last --model)",
    )
    add(
        "--exclude-near-duplicates-of",
        nargs="+",
        default=[],
        metavar="PATH",
        help="posts (such as those trained on); what shares its text or image with them is "
        "left out",
    )
    add(
        "--prior",
        choices=("uniform", "shares"),
        default="uniform",
        help="how often each label is expected, the same for every model: all alike, or as "
        "among the posts (default: uniform)",
    )
    add_labelled_posts_options(parser, "of disruptions and resamples")


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate and write the results; returns the exit code.

    Raises UsageError for models that cannot be compared or posts without labels, SchemaError
    for a label that the models do not know.
    """
    columns = parse_columns(args.column, args.image_folder)
    sources = parse_models(args.model)
    names = list(sources)
    baseline = _baseline(args.baseline, names)
    output = local_folder(args.output)
    check_paths(args.posts, "--posts")
    check_paths(args.exclude_near_duplicates_of, "--exclude-near-duplicates-of")
    infos = _read_checkpoints(sources)
    labels = infos[names[0]].labels
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

    from drf_core.evaluation.protocol import cells
    from pipelines.evaluate.features import ViewStore
    from pipelines.evaluate.posts import corpus_hash, read_evaluation_posts
    from pipelines.evaluate.records import records

    read = read_evaluation_posts(
        args.posts, columns, args.label_column, labels, args.exclude_near_duplicates_of, output
    )
    about_posts = _describe_posts(args, read, labels)
    say(about_posts)
    store = ViewStore(output / "_features", read.posts, corpus_hash(read.posts), args.seed)
    every_cell = cells(len(read.posts), args.seed)
    local_folder(f"{args.output}/predictions")
    models = [
        _evaluate_model(args, name, infos[name], labels, store, every_cell, read.places)
        for name in names
    ]
    records_of_models = records(models, baseline, every_cell, len(read.posts))
    _write(args, output, records_of_models, models, baseline, read, labels, about_posts)
    store.clear()
    say(
        "results.md, accuracy.png, reliability.png, results.json and, as Parquet, results, labels "
        f"and predictions/ are in {args.output}"
    )
    return 0


def parse_models(items: Sequence[str]) -> dict[str, str]:
    """{name: folder or hub id} of `--model [NAME=]DIR|HUB_ID` options, in their order.

    Without NAME a model is called by the last part of its path. Raises UsageError for two
    models of one name.
    """
    sources: dict[str, str] = {}
    for item in items:
        name, equals, source = item.partition("=")
        if not equals or os.path.isdir(item) or not _NAME.fullmatch(name):
            source, name = item, re.split(r"[/\\]", item.split("?")[0].rstrip("/\\"))[-1]
            if name in ("", ".", ".."):
                name = Path(item).resolve().name
        if not source:
            raise UsageError(f"--model {item}: names no checkpoint; write NAME=DIR")
        if name in sources:
            raise UsageError(
                f"--model {shown(item)}: another model is called '{name}', too; give each a name "
                f"of its own with --model NAME={shown(source)}"
            )
        sources[name] = source
    return sources


def _baseline(name: str | None, names: Sequence[str]) -> str | None:
    if name is not None and name not in names:
        raise UsageError(f"--baseline {name}: no such model; models are {', '.join(names)}")
    return name if name is not None else names[-1] if len(names) > 1 else None


def _read_checkpoints(sources: dict[str, str]) -> dict[str, CheckpointInfo]:
    from drf_core.checkpoint import read_checkpoint
    from pipelines.storage.checkpoints import resolve_model

    infos = {name: read_checkpoint(resolve_model(source)) for name, source in sources.items()}
    first, *others = infos
    for name in others:
        if set(infos[name].labels) != set(infos[first].labels):
            raise UsageError(
                f"--model {name}: its labels are {', '.join(infos[name].labels)}, those of "
                f"{first} {', '.join(infos[first].labels)}; only models with the same labels "
                "can be compared"
            )
    return infos


def _evaluate_model(
    args: argparse.Namespace,
    name: str,
    info: CheckpointInfo,
    labels: Sequence[str],
    store: ViewStore,
    every_cell: Sequence[Cell],
    places: Sequence[PostPlace],
) -> EvaluatedModel:
    import dataclasses

    import numpy as np

    from drf_core.annotator import Annotator
    from drf_core.evaluation.figures import figures
    from drf_core.evaluation.predictions import outcomes, under_prior
    from pipelines.evaluate.details import look_into, suspicions, write_predictions
    from pipelines.evaluate.records import EvaluatedModel

    annotator = Annotator.from_pretrained(info.folder, args.device, args.threads)
    views = store.views(annotator, name, info.folder)
    say(f"{name}: predicting {len(every_cell)} cells, {RESAMPLES:,} resamples of each")
    order = [annotator.labels.index(label) for label in labels]
    config = annotator.model.config
    truth = np.array([post.label for post in store.posts])
    prior = np.full(len(labels), 1 / len(labels))
    if args.prior == "shares":
        prior = np.bincount(truth, minlength=len(labels)) / len(truth)
    assumed = np.array(config.label_prior)[order]
    predicted = [
        dataclasses.replace(
            outcome, probabilities=under_prior(outcome.probabilities[:, order], assumed, prior)
        )
        for outcome in outcomes(annotator.model, views, every_cell)
    ]
    measured = figures(predicted, truth, config.quality_threshold, RESAMPLES, args.seed)
    path = Path(args.output, "predictions", f"{name}.parquet")
    write_predictions(path, name, labels, places, truth, every_cell, predicted)
    kinds = getattr(config, "trained_kinds", None)
    details = look_into(truth, every_cell, predicted)
    for suspicion in suspicions(labels, details):
        say(f"warning: {name} {suspicion}")
    return EvaluatedModel(name, info.revision, kinds, measured, details)


def _describe_posts(args: argparse.Namespace, read: EvaluationPosts, labels: Sequence[str]) -> str:
    counts = Counter(labels[post.label] for post in read.posts)
    total = len(read.posts)
    shares = ", ".join(f"{label} {counts[label] / total:.1%}" for label in labels)
    description = f"{total:,} posts ({shares})"
    if read.unlabelled:
        description += f"; {read.unlabelled:,} without a label left out"
    if read.unusable:
        description += f"; {read.unusable:,} with neither text nor image left out"
    if args.exclude_near_duplicates_of:
        others = ", ".join(shown(path) for path in args.exclude_near_duplicates_of)
        description += (
            f"; {read.near_duplicates:,} left out that share their text ({read.same_text:,}) or "
            f"image ({read.same_image:,}) with {others}"
        )
    return f"{description}."


def _write(
    args: argparse.Namespace,
    output: Path,
    made: Sequence[Record],
    models: Sequence[EvaluatedModel],
    baseline: str | None,
    read: EvaluationPosts,
    labels: Sequence[str],
    about_posts: str,
) -> None:
    import dataclasses

    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.evaluate.details import describe_labels, write_label_figures
    from pipelines.evaluate.plot import draw_accuracy, draw_reliability
    from pipelines.evaluate.report import closing_table, introduce, write_report

    left_out = {
        field.name: getattr(read, field.name)
        for field in dataclasses.fields(read)
        if field.name not in ("posts", "places")
    }
    about: dict[str, Any] = {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "command": command_line("evaluate", add_evaluate_arguments, args),
        "posts": len(read.posts),
        "left_out": left_out,
        "models": {
            model.name: {"revision": model.revision, "trained_kinds": model.trained_kinds}
            for model in models
        },
        "baseline": baseline,
        "prior": args.prior,
        "seed": args.seed,
        "resamples": RESAMPLES,
    }
    schema = EVALUATION_SCHEMA.with_metadata({"drf": json.dumps(about)})
    table = pa.Table.from_pylist(list(made), schema=schema)
    whole = json.dumps({**about, "records": list(made)}, indent=1, ensure_ascii=False) + "\n"
    counts = Counter(post.label for post in read.posts)
    label, most = counts.most_common(1)[0]
    always = (f"always {labels[label]}", most / len(read.posts))
    details = {model.name: model.details for model in models}
    confusions = {name: describe_labels(labels, of_model) for name, of_model in details.items()}
    described = {model.name: _describe_model(model) for model in models}
    introduction = introduce(about, about_posts, described)
    page = write_report(made, introduction, baseline, "accuracy.png", confusions, "reliability.png")
    for kind in ("png", "svg"):
        write_whole(output / f"accuracy.{kind}", lambda path: draw_accuracy(made, path, always))
        write_whole(
            output / f"reliability.{kind}",
            lambda path: draw_reliability(
                {name: of_model.reliabilities for name, of_model in details.items()}, path
            ),
        )
    write_label_figures(output / "labels.parquet", labels, details)
    write_whole(output / "results.parquet", lambda path: pq.write_table(table, path))
    write_whole(output / "results.json", lambda path: path.write_text(whole, encoding="utf-8"))
    write_whole(output / "results.md", lambda path: path.write_text(page, encoding="utf-8"))
    print(closing_table(made, baseline))


def _describe_model(model: EvaluatedModel) -> str:
    if model.trained_kinds is None:
        return (
            f"revision {model.revision}; its checkpoint does not say what damage it was trained on"
        )
    kinds = "; ".join(f"{m}s {', '.join(k) or 'none'}" for m, k in model.trained_kinds.items())
    return f"revision {model.revision}; trained on damaged {kinds}"
