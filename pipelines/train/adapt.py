"""The job behind `drf adapt`: a checkpoint fitted to posts without labels, by a Beam pipeline."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drf_core.checkpoint import read_checkpoint
from pipelines.annotate.fetch.addresses import check_prefix
from pipelines.annotate.job import JobOptions, RowOptions, WorkUnit
from pipelines.annotate.planning.shards import cut_shards, fill_units
from pipelines.console.messages import complain, printed
from pipelines.console.options import (
    add_device_options,
    add_post_columns_options,
    add_posts_option,
    add_repeatable,
)
from pipelines.console.version import package_version
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.inputs import InputListing, list_inputs
from pipelines.posts.names import told_apart
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from pipelines.storage.files import TEMPORARY, open_store
from pipelines.storage.redaction import redact
from schemas.annotations import MODALITIES
from schemas.errors import UsageError
from schemas.posts import parse_columns

if TYPE_CHECKING:
    from drf_core.training.adapting import Adaptation
    from pipelines.train.sampled_posts import SampledPost

# Posts drawn at most: with so many, a reference adds half a point to the band of chance.
MOST_POSTS = 8_192
_FEWEST_POSTS = 20

# Of the report's histograms (pipelines.annotate.output.histograms.BINS).
_BINS = 20

_CONFIG, _CARD = "config.json", "README.md"
_SECTION = "## Adapted"
# What adapting changes; all else is copied as it is.
_ADAPTED = re.compile(
    r"quality\.\w+\.(of_length|ways|reference)\.|recovery\.\w+\.reference\.|paired_queue\."
)


def add_adapt_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf adapt`; Beam's own come on top and are checked by name."""
    add = parser.add_argument
    add_posts_option(parser, "posts as the job will see them, without labels")
    add("--model", default=DEFAULT_MODEL, metavar="DIR|HUB_ID|URL", help="checkpoint to adapt")
    add("--output", required=True, metavar="DIR|URL", help="folder of the adapted checkpoint")
    add_post_columns_options(parser)
    add_repeatable(parser, "--image-uri-prefix", "URL", "images are fetched only from below these")
    add_device_options(parser)


def run_adapt(args: argparse.Namespace, beam_arguments: Sequence[str], own: Sequence[str]) -> int:
    """Adapt; return the exit code. own: the option names of `drf adapt` itself."""
    output = args.output if "://" in args.output else os.path.abspath(args.output)
    store = open_store(output)
    if store.size(_CONFIG) is not None:
        raise UsageError(f"--output {redact(output)}: holds a checkpoint; name another folder")
    options = _job_options(args, output)
    listing = list_inputs(args.posts, options.rows.columns, option="--posts")
    if listing.failed:
        raise CorruptInputError(listing.failed[0].error)
    for warning in listing.warnings:
        complain(f"warning: --posts: {warning}")
    # Told before the posts are read.
    store.write(f"{_CONFIG}.probe", b"")
    store.remove(f"{_CONFIG}.probe")

    from pipelines.annotate.engines.runners import count_workers, parse_beam_options

    beam_options = parse_beam_options(beam_arguments, own)
    _run(options, listing, count_workers(beam_options), beam_options)
    store.remove_empty_folders(TEMPORARY, "")
    adapted = store.read_json(_CONFIG)["adapted"]
    printed(_summary(adapted, redact(output)))
    return 0


def _job_options(args: argparse.Namespace, output: str) -> JobOptions:
    folder = resolve_model(args.model)
    checkpoint = read_checkpoint(folder)
    local = args.model != DEFAULT_MODEL and os.path.isdir(args.model)
    columns = parse_columns(args.column, args.image_folder)
    prefixes = [*args.image_uri_prefix, *filter(None, [columns.image_folder])]
    return JobOptions(
        output=output,
        run_id=datetime.now(timezone.utc).strftime("adapt-%Y%m%dT%H%M%SZ"),
        model=os.path.abspath(folder) if local else args.model,
        model_id=redact(args.model),
        model_revision=checkpoint.revision,
        package_version=package_version(),
        labels=checkpoint.labels,
        rows=RowOptions(columns=columns, image_uri_prefixes=tuple(map(check_prefix, prefixes))),
        device=args.device,
        threads=args.threads,
    )


def _run(options: JobOptions, listing: InputListing, workers: int, beam_options: Any) -> None:
    """Encode the posts that are drawn wherever they are read, and write the checkpoint."""
    import apache_beam as beam

    from pipelines.annotate.engines.runners import choose_runner, run_pipeline

    rows = sum(file.rows for file in listing.files)
    shards = [shard for file in listing.files for shard in cut_shards(file, options)]
    units = fill_units(shards, listing.files, workers)
    pipeline = beam.Pipeline(runner=choose_runner(beam_options), options=beam_options)
    _ = (
        pipeline
        | "WorkUnits" >> beam.Create(list(units))
        | "SpreadOverWorkers" >> beam.Reshuffle()
        | "Encode" >> beam.FlatMap(_encode, options, MOST_POSTS / max(rows, 1))
        | "Collect" >> beam.combiners.ToList()
        | "Adapt" >> beam.Map(_adapt, options, rows, [file.source_file for file in listing.files])
    )
    run_pipeline(pipeline, options.run_id, lambda cancel: contextlib.nullcontext())


def _encode(unit: WorkUnit, options: JobOptions, share: float) -> Iterator[SampledPost]:
    from pipelines.annotate.work.model import load_model, model_options
    from pipelines.train.sampled_posts import encode_drawn

    yield from encode_drawn(unit.shards, options, share, load_model(model_options(options)))


def _adapt(posts: list[SampledPost], options: JobOptions, rows: int, files: list[str]) -> None:
    """Fit the checkpoint to the posts and write it; done twice, it writes the same."""
    from transformers.utils.logging import disable_progress_bar

    from drf_core.model.weights import load_model
    from drf_core.training.adapting import adapt
    from pipelines.annotate.work.check_worker import check_checkpoint
    from pipelines.train.sampled_posts import as_views

    disable_progress_bar()
    if len(posts) < _FEWEST_POSTS:
        raise UsageError(
            f"--posts: {len(posts)} of {rows:,} posts have a text or an image that can be used; "
            f"at least {_FEWEST_POSTS} are needed"
        )
    folder = check_checkpoint(options.model, options.model_revision)
    model = load_model(folder)
    views, folds = as_views(posts, model.config.raw_sizes)
    adaptation = adapt(model, views, folds)
    adapted = {
        "posts": len(posts),
        "of": rows,
        "files": len(files),
        "from": f"{options.model_id} ({options.model_revision[:12]})",
        **_figures(adaptation),
    }
    state = {name: of for name, of in model.state_dict().items() if _ADAPTED.match(name)}
    _write(folder, options.output, state, adapted, files)


def _figures(adaptation: Adaptation) -> dict[str, Any]:
    """What the summary, the card and a report show of it."""

    def counted(qualities: Any) -> list[int]:
        return (qualities * _BINS).long().clamp_(0, _BINS - 1).bincount(minlength=_BINS).tolist()

    return {
        "qualities": {
            m: {
                "before": counted(adaptation.before[m]),
                "after": counted(adaptation.after[m]),
                "unseen": counted(adaptation.unseen[m]),
            }
            for m in MODALITIES
        },
        "recovery_errors": adaptation.recovery_errors,
        "labels_changed": adaptation.labels_changed,
    }


def _write(
    folder: str, output: str, state: dict[str, Any], adapted: dict[str, Any], files: list[str]
) -> None:
    """Copy a checkpoint with what was fitted in place of what was; its configuration last."""
    from safetensors.torch import load_file, save_file

    store = open_store(output)
    for path in sorted(Path(folder).iterdir()):
        if path.name in (_CONFIG, _CARD) or not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            kept = load_file(path)
            for name in kept.keys() & state.keys():
                kept[name] = state[name].to(kept[name].dtype).contiguous()
            with tempfile.TemporaryDirectory() as scratch:
                save_file(kept, f"{scratch}/{path.name}", metadata={"format": "pt"})
                data = Path(scratch, path.name).read_bytes()
        store.write(path.name, data)
    card = Path(folder, _CARD)
    said = card.read_text(encoding="utf-8") if card.exists() else ""
    store.write(_CARD, _with_section(said, adapted).encode())
    config = json.loads(Path(folder, _CONFIG).read_text(encoding="utf-8"))
    config |= {"adapted": adapted, "reference_files": told_apart(files)}
    store.write(_CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def _with_section(card: str, adapted: dict[str, Any]) -> str:
    """A card that says how the checkpoint was adapted, the last time if more than once."""
    card = re.sub(rf"\n{_SECTION}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    among = f"{adapted['posts']:,} posts that the checkpoint was adapted to (below)"
    card = re.sub(r"(Qualities are ranks among )[^.]*", lambda found: found[1] + among, card)
    lines = [
        f"Adapted with `drf adapt` from {adapted['from']} to {adapted['posts']:,} posts without "
        "labels; the figures above were measured before.",
        "",
        *_table(adapted),
    ]
    return f"{card.rstrip()}\n\n{_SECTION}\n\n" + "\n".join(lines) + "\n"


def _table(adapted: dict[str, Any]) -> list[str]:
    """The shares of low qualities before and after, as Markdown."""
    lines = [
        "| quality below .05 | posts | before | after | left out of the fit |",
        "|---" * 5 + "|",
    ]
    for m, counts in adapted["qualities"].items():
        posts = sum(counts["before"])
        shares = [f"{of[0] / posts:.3f}" if posts else "" for of in counts.values()]
        lines.append(f"| {m} | {posts:,} | {' | '.join(shares)} |")
    return lines


def _summary(adapted: dict[str, Any], output: str) -> list[str]:
    errors = ", ".join(
        f"{m} {before:.2f} -> {after:.2f}"
        for m, (before, after) in adapted["recovery_errors"].items()
    )
    return [
        f"adapted to {adapted['posts']:,} of {adapted['of']:,} posts in {adapted['files']} files",
        *_table(adapted),
        f"distance of recovered features to the posts' own: {errors or 'no post has both'}",
        f"labels changed: {adapted['labels_changed']:.1%}",
        f"checkpoint in {output}",
    ]
