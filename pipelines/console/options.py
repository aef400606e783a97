"""Options that several commands have, and the values they take; imports neither torch nor Beam."""

from __future__ import annotations

import argparse
import contextlib


def add_repeatable(parser: argparse.ArgumentParser, option: str, metavar: str, about: str) -> None:
    """Add an option that may be given more than once; about: its help."""
    parser.add_argument(option, action="append", default=[], metavar=metavar, help=about)


def add_column_option(parser: argparse.ArgumentParser, scope: str = "") -> None:
    """Add --column ROLE=NAME. scope: what the help begins with."""
    about = "which column is post_id, text, image or image_uri; `image=` for none"
    add_repeatable(parser, "--column", "ROLE=NAME", scope + about)


def add_post_columns_options(parser: argparse.ArgumentParser) -> None:
    """Add --column and --image-folder, which together say where a post's parts are."""
    add_column_option(parser)
    parser.add_argument(
        "--image-folder",
        metavar="DIR|URL",
        help="where relative paths of images begin; without it, an image that is text is base64 "
        "or a data: URI",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--threads",
        type=not_negative,
        default=0,
        metavar="N",
        help="threads of the model in each process, 0 for one per core",
    )


def add_posts_option(parser: argparse.ArgumentParser, which: str) -> None:
    """Add --posts; which: posts they are, for its help."""
    parser.add_argument(
        "--posts", nargs="+", required=True, metavar="PATH",
        help=f"{which}: files, folders or globs",
    )  # fmt: skip


def add_labelled_posts_options(parser: argparse.ArgumentParser, seed_help: str) -> None:
    """Add what a command that reads labelled posts and draws from a seed takes."""
    parser.add_argument("--label-column", default="label", metavar="NAME")
    add_post_columns_options(parser)
    add_device_options(parser)
    parser.add_argument("--seed", type=not_negative, default=0, metavar="N", help=seed_help)


def share(text: str) -> float:
    """A number between 0 and 1."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= least:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
