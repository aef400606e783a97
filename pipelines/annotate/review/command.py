"""`drf review`: posts out for people to label, and their answers back."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.annotate.manifest import read_manifest
from pipelines.annotate.output import layout
from pipelines.annotate.report.command import list_runs
from pipelines.annotate.report.gallery import read_night_rows, thumbnail
from pipelines.annotate.report.gather import gather_nights
from pipelines.annotate.report.source_posts import ledger_files, post_columns, read_source_posts
from pipelines.annotate.review.accuracy import Accuracy, weighted_accuracy
from pipelines.annotate.review.draw import draw_posts
from pipelines.annotate.review.formats import FORMATS, read_answers, write_posts
from pipelines.console.options import not_negative, positive
from pipelines.storage.files import Store, open_store
from schemas.annotations import MODALITIES
from schemas.errors import UsageError

# What a person can judge a picture by, and a table of hundreds can hold.
_EDGE = 384


def add_review_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `drf review`."""
    add = parser.add_argument
    add("output", metavar="OUT", help="what `drf annotate --output` was given")
    add("--run", metavar="ID", help="whose posts; default: the last run")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--export", metavar="FILE", help="write posts to label")
    way.add_argument("--import", dest="answers", metavar="FILE", help="read their labels")
    add("--format", default="csv", choices=FORMATS, help="of --export (default %(default)s)")
    add("--n", type=positive, default=200, metavar="N", help="posts to draw (default %(default)s)")
    add("--seed", type=not_negative, default=0, metavar="N", help="of the drawing")
    add("--posts", metavar="FILE", help="with --import: write the answered posts, to train on")


def run_review(arguments: argparse.Namespace) -> int:
    """Draw posts, or measure what their answers say; return the exit code."""
    store = open_store(arguments.output)
    if arguments.export:
        if arguments.posts:
            raise UsageError("--posts goes with --import: there are no answers yet")
        return _export(store, arguments)
    return _import(store, arguments)


def _export(store: Store, arguments: argparse.Namespace) -> int:
    run_id = _run_id(store, arguments.run)
    manifest = read_manifest(arguments.output, run_id)
    nights = gather_nights(store, manifest)
    if not nights or not nights[-1].night.annotations or nights[-1].night.staged:
        raise UsageError(f"run {run_id} has no published posts to review; name another with --run")
    rows = read_night_rows(store, nights[-1].places[layout.ANNOTATIONS])
    lower = np.minimum(*(rows[f"{m}_quality"].to_numpy() for m in MODALITIES))
    drawn = draw_posts(rows["confidence"].to_numpy(), lower, arguments.n, arguments.seed)
    records = rows.take(pa.array(drawn.rows)).to_pylist()
    files, columns = ledger_files(store), post_columns(manifest.options)
    places = [(record["source_file"], record["source_row"]) for record in records]
    posts, problems = read_source_posts(files, places, columns)
    found: list[dict[str, Any]] = []
    for place, record, weight, kind in zip(
        places, records, drawn.weights, drawn.kinds, strict=True
    ):
        if place in posts:
            post = posts[place]
            fields = {"weight": float(weight), "kind": kind, "run_id": run_id, "text": post.text}
            picture = thumbnail(post.image, _EDGE) or post.image_uri
            found.append({**record, **fields, "image": picture})
    if not found:
        raise UsageError(f"the posts cannot be read again: {'; '.join(problems[:3])}")
    # They are what people posted: nobody else's to read.
    mask = os.umask(0o077)
    try:
        write_posts(Path(arguments.export), arguments.format, found, sorted(manifest.totals.labels))
    except OSError as error:
        raise UsageError(f"--export {arguments.export}: {error.strerror}") from error
    finally:
        os.umask(mask)
    print(f"wrote {len(found)} posts of {nights[-1].night.name} to {arguments.export}")
    for problem in problems[:5]:
        print(f"  left out      {problem}")
    return 0


def _import(store: Store, arguments: argparse.Namespace) -> int:
    answers = read_answers(Path(arguments.answers))
    if not answers:
        raise UsageError(f"--import {arguments.answers}: holds no answer yet")
    right = np.array([one["answer"].lower() == str(one["label"]).lower() for one in answers])
    weights = np.array([one["weight"] for one in answers])
    print(_line("accuracy", weighted_accuracy(right, weights)))
    for label in sorted({str(one["label"]) for one in answers}):
        of = np.array([one["label"] == label for one in answers])
        print(_line(f"said {label}", weighted_accuracy(right[of], weights[of])))
    if arguments.posts:
        print(f"  posts         {_write_training_posts(store, answers, arguments.posts)}")
    return 0


def _line(name: str, accuracy: Accuracy) -> str:
    return (
        f"  {name:<14}{accuracy.value:.1%} of all posts ({accuracy.low:.1%} to "
        f"{accuracy.high:.1%}), by {accuracy.answers} answers"
    )


def _write_training_posts(store: Store, answers: list[dict[str, Any]], path: str) -> str:
    """Write the answered posts with their labels, as `drf train --posts` takes them."""
    manifest = read_manifest(store.url, str(answers[0]["run_id"]))
    places = [(one["source_file"], one["source_row"]) for one in answers]
    posts, problems = read_source_posts(ledger_files(store), places, post_columns(manifest.options))
    kept = [
        {
            "post_id": one["post_id"],
            "text": posts[place].text,
            "image": posts[place].image,
            "label": one["answer"].lower(),
        }
        for place, one in zip(places, answers, strict=True)
        if place in posts
    ]
    if problems and not kept:
        raise UsageError(f"the posts cannot be read again: {'; '.join(problems[:3])}")
    schema = pa.schema(
        [
            ("post_id", pa.string()),
            ("text", pa.large_string()),
            ("image", pa.large_binary()),
            ("label", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(kept, schema), path)
    behind = sum(post.image is None and post.image_uri is not None for post in posts.values())
    return f"{path}{f', without the images of {behind} posts: addresses' if behind else ''}"


def _run_id(store: Store, asked: str | None) -> str:
    runs = [run.run_id for run in list_runs(store)]
    if asked is None and runs:
        return runs[-1]
    if asked not in runs:
        raise UsageError(
            f"--run {asked or ''}: {store.url} holds no such run; `drf runs` lists them"
        )
    return str(asked)
