"""`drf annotate`: its options, and what it does with them before and after the pipeline."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from drf_core.checkpoint import read_checkpoint
from drf_core.decoding import MORE_FORMATS
from drf_core.runtimes.choice import RUNTIMES
from pipelines.annotate.fetch.addresses import check_prefix
from pipelines.annotate.job import PART_BYTES, JobOptions, Plan, RowOptions, parse_prior
from pipelines.annotate.manifest import read_manifest
from pipelines.annotate.metrics_file import write_metrics
from pipelines.annotate.output.clear_staging import sweep_staging
from pipelines.annotate.output.layout import TREES
from pipelines.annotate.output.locks import check_locks
from pipelines.annotate.planning.check_addresses import check_addresses
from pipelines.annotate.planning.make_plan import describe_plan, make_plan
from pipelines.annotate.planning.shards import SHARD_ROWS
from pipelines.annotate.progress import show_phase
from pipelines.annotate.report.model_facts import read_model_facts
from pipelines.annotate.run_steps import RunStart, close_here, run_here
from pipelines.annotate.summary import closing_error, first_of, format_summary
from pipelines.console.messages import complain, printed
from pipelines.console.options import (
    add_device_options,
    add_post_columns_options,
    add_repeatable,
    not_negative,
    positive,
    share,
)
from pipelines.console.version import package_version
from pipelines.posts.date_folders import parse_partition
from pipelines.posts.inputs import list_inputs
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from pipelines.storage.files import OutputError, open_store
from pipelines.storage.redaction import redact
from schemas.errors import UsageError
from schemas.exit_codes import ExitCode
from schemas.manifest import Manifest, to_json
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_MEDIA, parse_columns

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# For --image-uri-prefix: that no image is fetched is meant.
_NO_PREFIX = "none"

# Shares of a partition's posts above which it is held back.
_LIMITS = {
    "max_dead_letter_share": "a partition with more is held back (default %(default)s)",
    "max_recovered_share": "of a partition's texts, and of its images; one with more is held back "
    "(default: any)",
    "max_low_quality_share": "likewise of low quality (default: any)",
    "max_label_shift": "labels that moved against the last nights'; likewise (default: any)",
    "max_fetch_failed_share": "posts whose image's host is down; a partition with more is held "
    "back (default %(default)s)",
}

# Options of the job that stand in it as they were given.
_AS_GIVEN = (
    *("device", "runtime", "batch_size", "threads", "fetch_concurrency", "fetch_per_host"),
    *("strict", "part_bytes", "table"),
)

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def add_annotate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf annotate`; Beam's own come on top and are checked by name."""
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        action="extend",
        metavar="PATH",
        help="files of posts (Parquet, CSV, JSON Lines, Avro), folders or globs, on any fsspec URL",
    )
    add(
        "--output", required=True, metavar="DIR", help="folder or fsspec URL; may hold earlier runs"
    )
    add(
        "--model",
        default=DEFAULT_MODEL,
        metavar="DIR|HUB_ID|URL",
        help="checkpoint; default: the one in the package",
    )
    add(
        "--partition",
        metavar="KEY={:PATTERN}",
        help="date folders without a key are partitions: dt={:%%Y/%%m/%%d} reads 2026/11/20 as "
        "dt=2026-11-20",
    )
    add_repeatable(parser, "--keep", "COL,...", "input columns that travel through untouched")
    add_post_columns_options(parser)
    add(
        "--media",
        choices=("first", "all"),
        default="first",
        help=f"of a list of pictures, the first, or all (up to {MAX_MEDIA}), pooled to one row",
    )
    add_repeatable(
        parser,
        "--image-uri-prefix",
        "URL",
        "images are fetched only from below these; `none` where none shall be fetched",
    )
    add(
        "--fetch-concurrency",
        type=positive,
        default=JobOptions.fetch_concurrency,
        metavar="N",
        help="images that each worker fetches at a time (default %(default)s)",
    )
    add(
        "--fetch-per-host",
        type=positive,
        default=JobOptions.fetch_per_host,
        metavar="N",
        help="of them from one host (default %(default)s)",
    )
    add("--run-id", metavar="ID", help="name of the run; default: its start")
    for name, what in _LIMITS.items():
        add(
            f"--{name.replace('_', '-')}",
            type=share,
            default=getattr(JobOptions, name),
            metavar="SHARE",
            help=what,
        )
    add("--strict", action="store_true", help="publish nothing if any file failed")
    add("--prune", action="store_true", help="remove parts whose input file is gone")
    add_repeatable(parser, "--retry", "REASON,...", "annotate shards with these once more")
    add("--no-report", action="store_true", help="leave no page about the run")
    add(
        "--price-per-hour",
        type=float,
        metavar="AMOUNT",
        help="what a machine costs an hour, for the report",
    )
    add(
        "--metrics",
        metavar="FILE",
        help="write the run's numbers here when it ends, as Prometheus' text format has them",
    )
    add("--dry-run", action="store_true", help="say what would be done, and stop")
    add("--json", action="store_true", help="print the run's manifest instead of a summary")
    add_device_options(parser)
    add(
        "--runtime",
        default="auto",
        choices=RUNTIMES,
        help="what encodes; auto: torch on a GPU, on a CPU OpenVINO in the fastest precision "
        "that keeps the labels",
    )
    add(
        "--feature-cache",
        metavar="URL",
        help="keep encoders' features in this folder, and do not encode what is there; for "
        "annotating again with another model on the same encoders",
    )
    add(
        "--batch-size",
        type=not_negative,
        default=0,
        metavar="N",
        help="posts per forward; default: 64 on a CPU, 256 on a GPU",
    )
    add(
        "--shard-rows",
        type=positive,
        default=SHARD_ROWS,
        metavar="N",
        help="most rows that are committed at once (default %(default)s); another number "
        "annotates everything anew",
    )
    add_repeatable(
        parser,
        "--image-formats",
        "NAME,...",
        f"opened beside JPEG, PNG, WebP, GIF and BMP: {', '.join(MORE_FORMATS)} (heic: "
        "pip install '.[heic]')",
    )
    add(
        "--prior",
        metavar="LABEL=SHARE,…",
        help="how often each label is expected, such as positive=.6,neutral=.1,negative=.3, or "
        "uniform; default: what the checkpoint says, which is uniform for the one in the package",
    )
    add("--max-image-pixels", type=positive, default=MAX_IMAGE_PIXELS, metavar="N")
    add("--max-image-bytes", type=positive, default=MAX_IMAGE_BYTES, metavar="N")
    add("--part-bytes", type=positive, default=PART_BYTES, metavar="N", help="of a published part")
    table = "what is published also as Delta tables, below OUTPUT/delta, for who wants snapshots"
    add("--table", choices=["delta"], help=f"{table} (pip install '.[delta]')")


def run_annotate(
    arguments: argparse.Namespace, beam_arguments: Sequence[str], own: Sequence[str]
) -> int:
    """Annotate; return the exit code. own: the option names of `drf annotate` itself."""
    start = datetime.now(timezone.utc)
    if arguments.dry_run and arguments.json:
        raise UsageError("--json prints the manifest of a run, --dry-run runs nothing; name one")
    options = job_options(arguments, start)
    beam_options, workers, template = None, 1, None
    if beam_arguments:
        from pipelines.annotate.engines.dataflow import template_location
        from pipelines.annotate.engines.runners import count_workers, parse_beam_options

        beam_options = parse_beam_options(beam_arguments, own)
        workers = count_workers(beam_options)
        template = template_location(beam_options)
    if template is not None and (arguments.json or arguments.dry_run):
        raise UsageError(
            "--template_location writes a job that runs later, so there is nothing to "
            "tell of it yet: leave out --json and --dry-run"
        )
    show_phase("listing the input and planning")
    # Whatever is wrong with the command shows here, before anything is changed.
    plan = _plan(arguments, options, workers)
    if arguments.image_uri_prefix != [_NO_PREFIX]:
        check_addresses(plan)
    show_phase("")
    if arguments.dry_run:
        return _describe(plan)
    store = open_store(options.output)
    store.check_writable(*TREES)
    check_locks(store)
    run_start = RunStart(
        start,
        _given(arguments, beam_options),
        planned=datetime.now(timezone.utc),
        facts=read_model_facts(resolve_model(arguments.model)),
        report=not arguments.no_report,
    )
    if template is not None:
        _write_template(plan, run_start, beam_options, template)
        return 0
    manifest = _carry_out(plan, run_start, beam_options)
    with contextlib.suppress(OutputError):
        sweep_staging(store)
    if arguments.metrics:
        write_metrics(arguments.metrics, manifest)
    if arguments.json:
        print(to_json(manifest), end="")
    else:
        printed(format_summary(manifest, redact(options.output)))
    if (error := closing_error(manifest)) is not None:
        complain(f"error: {error}")
    return manifest.exit_code


def _plan(arguments: argparse.Namespace, options: JobOptions, workers: int) -> Plan:
    dates = parse_partition(arguments.partition) if arguments.partition else None
    rows = options.rows
    listing = list_inputs(arguments.input, rows.columns, rows.keep, options.output, dates=dates)
    return make_plan(
        options,
        listing,
        retry=_split(arguments.retry),
        prune=arguments.prune,
        shard_rows=arguments.shard_rows,
        workers=workers,
    )


def _describe(plan: Plan) -> int:
    """Print what the plan would do; return the exit code that its failed files ask for."""
    printed(describe_plan(plan))
    if not plan.failed_files:
        return 0
    complain(f"error: {first_of([file.error for file in plan.failed_files], 'above')}")
    return ExitCode.FAILED_FILES


def _given(arguments: argparse.Namespace, beam_options: PipelineOptions | None) -> dict[str, Any]:
    """What the command line asked for beside the job's options, for the manifest."""
    return {
        "input": [redact(path) for path in arguments.input],
        "partition": arguments.partition,
        "retry": list(_split(arguments.retry)),
        "shard_rows": arguments.shard_rows,
        "price_per_hour": arguments.price_per_hour,
        "command": ["drf", *(redact(word) for word in arguments.words)],
        "runner": beam_options.get_all_options()["runner"] if beam_options else "local",
    }


def _carry_out(plan: Plan, start: RunStart, beam_options: PipelineOptions | None) -> Manifest:
    """Compute what is to be computed, and publish; neither needs Beam in this process."""
    if not plan.units:
        return close_here(plan, (), start)
    if beam_options is None:
        return run_here(plan, start)
    from pipelines.annotate import pipeline

    pipeline.run(plan, start, beam_options)
    return read_manifest(plan.options.output, plan.options.run_id)


def _write_template(
    plan: Plan, start: RunStart, beam_options: PipelineOptions, location: str
) -> None:
    """Write the job's graph for a launcher to start, also where there is nothing to do.

    The launcher takes a missing graph for a failure; publishing and manifest are in the graph.
    """
    from pipelines.annotate import pipeline

    pipeline.run(plan, start, beam_options)
    print(
        f"wrote the job to {redact(location)}; when it has run, its outcome is in "
        f"{redact(plan.options.output)}/_runs/{plan.options.run_id}/manifest.json"
    )


def job_options(arguments: argparse.Namespace, started: datetime) -> JobOptions:
    """The options of the run, with the checkpoint looked up; raises UsageError."""
    run_id = arguments.run_id or started.strftime("%Y%m%dT%H%M%S.%fZ")
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"--run-id {run_id!r}: use up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    output = _absolute(arguments.output)
    columns = dataclasses.replace(
        parse_columns(arguments.column, arguments.image_folder),
        all_media=arguments.media == "all",
    )
    named = [prefix for prefix in arguments.image_uri_prefix if prefix != _NO_PREFIX]
    prefixes = [*named, *filter(None, [columns.image_folder])]
    folder = resolve_model(arguments.model)
    checkpoint = read_checkpoint(folder)
    local = arguments.model != DEFAULT_MODEL and os.path.isdir(arguments.model)
    return JobOptions(
        output=output,
        run_id=run_id,
        model=os.path.abspath(folder) if local else arguments.model,
        model_id=redact(arguments.model),
        model_revision=checkpoint.revision,
        package_version=package_version(),
        labels=checkpoint.labels,
        rows=RowOptions(
            prior=parse_prior(arguments.prior, checkpoint.labels),
            columns=columns,
            keep=_split(arguments.keep),
            image_uri_prefixes=tuple(check_prefix(prefix) for prefix in prefixes),
            max_image_pixels=arguments.max_image_pixels,
            max_image_bytes=arguments.max_image_bytes,
            image_formats=_image_formats(arguments.image_formats),
        ),
        **{name: getattr(arguments, name) for name in (*_LIMITS, *_AS_GIVEN)},
        feature_cache=arguments.feature_cache and _absolute(arguments.feature_cache),
    )


def _image_formats(words: Sequence[str]) -> tuple[str, ...]:
    if unknown := {*_split(words)} - {*MORE_FORMATS}:
        raise UsageError(f"--image-formats {min(unknown)}: is none of {', '.join(MORE_FORMATS)}")
    return tuple(sorted({*_split(words)}))


def _absolute(url: str) -> str:
    # A relative path would mean another place to a worker.
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def _split(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for names in options for name in names.split(",") if name.strip())
