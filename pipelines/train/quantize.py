"""`drf quantize`: int8 encoders for a checkpoint, calibrated on posts."""

from __future__ import annotations

import argparse
import os
import random
from typing import TYPE_CHECKING

from drf_core.checkpoint import INT8_FOLDER, read_checkpoint
from pipelines.console.messages import say
from pipelines.console.options import add_post_columns_options
from schemas.errors import UsageError
from schemas.posts import parse_columns

if TYPE_CHECKING:
    from drf_core.annotator import PreparedPost

# Posts that ranges are calibrated on: NNCF's own default.
_POSTS = 300
# Read from the beginning of the posts, to draw those from.
_DRAWN_FROM = 10 * _POSTS


def add_quantize_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf quantize`."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="DIR",
        help="checkpoint folder; the int8 encoders go into it",
    )
    add(
        "--posts",
        nargs="+",
        required=True,
        metavar="PATH",
        help=f"posts like those to annotate (Parquet), no labels needed; {_POSTS} are drawn",
    )
    add_post_columns_options(parser)


def run_quantize(args: argparse.Namespace) -> int:
    """Calibrate and write the int8 encoders; return the exit code.

    Raises UsageError for a model that is no local folder, posts without any text or any image,
    an encoder that cannot be converted, and where nncf is not installed.
    """
    if not os.path.isdir(args.model):
        raise UsageError(
            f"--model {args.model}: is no folder on this machine, and the int8 encoders go into it"
        )
    read_checkpoint(args.model)
    columns = parse_columns(args.column, args.image_folder)
    try:
        import nncf  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "drf quantize needs the package nncf: pip install 'drf-pipelines[quantize]'"
        ) from error
    from drf_core.annotator import Annotator
    from drf_core.runtimes.openvino_graphs import ConversionError
    from drf_core.runtimes.quantised import quantise, save_quantised
    from pipelines.posts.labelled import stream_training_rows

    annotator = Annotator.from_pretrained(args.model, device="cpu")
    rows = []
    for row in stream_training_rows(args.posts, columns, None):
        rows.append(row)
        if len(rows) == _DRAWN_FROM:
            break
    random.Random(0).shuffle(rows)
    posts: list[PreparedPost] = []
    for row in rows:
        post = annotator.prepare(row.text, row.image)
        posts += [post] if post.usable else []
        if len(posts) == _POSTS:
            break
    texts = [post.token_ids for post in posts if post.token_ids is not None]
    images = [post.pixels for post in posts if post.pixels is not None]
    if not texts or not images:
        raise UsageError("--posts: both texts and images are needed to calibrate on")
    say(f"calibrating on {len(texts)} texts and {len(images)} images")
    try:
        graphs = quantise(annotator.model, annotator.processor, texts, images)
    except ConversionError as error:
        raise UsageError(f"--model {args.model}: {error}") from error
    save_quantised(args.model, graphs, len(texts), len(images))
    say(f"int8 encoders are in {os.path.join(args.model, INT8_FOLDER)}; --runtime openvino-int8")
    return 0
