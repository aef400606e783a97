"""The job behind `drf import`: a corpus as distributed in, a Parquet file of posts per split out.

Files are read twice, once to find posts that share a text or an image and once to write them,
so that memory holds ids and fingerprints of the corpus but never its images.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from pipelines.console.options import add_column_option
from pipelines.importing.corpus import Content, Corpus, RawPost, read_content
from pipelines.importing.mvsa import read_mvsa
from pipelines.importing.published_splits import read_split_files
from pipelines.importing.report import (
    ImportReport,
    count_leaking,
    count_sharing,
    counted,
    summarise,
)
from pipelines.importing.table import read_table
from pipelines.importing.tumemo import read_tumemo
from pipelines.importing.write_splits import check_output, import_mark, open_splits
from pipelines.posts.duplicates import fingerprints, group_posts
from pipelines.posts.splits import SPLITS, assign_splits
from schemas.errors import UsageError
from schemas.posts import parse_columns

EMPTY = "neither text nor image"
NO_SPLIT = "in no split file"

# What posts without labels are written as: there is nothing to train and to judge apart.
_UNLABELLED = "posts"

_IMPORTERS: dict[str, Callable[[argparse.Namespace], Corpus]] = {
    "mvsa-single": lambda args: read_mvsa(Path(args.source), annotators=1),
    "mvsa-multiple": lambda args: read_mvsa(Path(args.source), annotators=3),
    "tumemo": lambda args: read_tumemo(Path(args.source)),
    "table": lambda args: read_table(
        Path(args.source),
        parse_columns(args.column),
        _label_column(args),
        Path(args.image_folder) if args.image_folder else None,
    ),
}


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `drf import`."""
    add = parser.add_argument
    add("corpus", choices=tuple(_IMPORTERS), help="what the corpus is")
    add("source", metavar="SOURCE", help="its folder as distributed, or the table (csv, jsonl)")
    add("--output", required=True, metavar="DIR", help="folder of train, dev and test.parquet")
    add("--seed", type=int, default=0, metavar="N", help="another seed makes another split")
    add(
        "--splits",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="published splits instead: files with the post ids of train, dev and test",
    )
    add_column_option(parser, "table: ")
    add(
        "--image-folder",
        metavar="DIR",
        help="table: where images may lie beside the table's folder; no file elsewhere is read",
    )
    add(
        "--label-column",
        metavar="NAME",
        help="table: the column of labels (default: label); empty for posts without, which become "
        "one file",
    )


def run_import(args: argparse.Namespace) -> int:
    """Read, split and write a corpus; returns the exit code.

    Raises UsageError for a source, split files or an output that nothing can be done with,
    DRFError for a line or a file of the corpus that cannot be read.
    """
    _check(args)
    output = Path(args.output)
    mark = import_mark(args.corpus, Path(args.source).resolve().name)
    check_output(output, mark)
    corpus = _IMPORTERS[args.corpus](args)
    published = read_split_files(args.splits, corpus.ids(), corpus.name) if args.splits else None
    unlabelled = args.label_column == ""
    names = [name for name in SPLITS if published is None or name in published.values()]
    if unlabelled:
        names = [_UNLABELLED]
    report = ImportReport(corpus.labels, {name: Counter() for name in names})
    report.dropped.update(corpus.dropped.values())
    posts, groups = _look_at(corpus.posts, published, report)
    if not posts:
        dropped = f" ({counted(report.dropped)})" if report.dropped else ""
        raise UsageError(f"{args.source}: no post is left{dropped}")
    if unlabelled:
        splits = [_UNLABELLED] * len(posts)
    elif published is None:
        splits = assign_splits([post.post_id for post in posts], groups, args.seed)
    else:
        splits = [published[post.post_id] for post in posts]
        report.leaking = count_leaking(groups, splits)
        report.named_but_dropped = len(published) - len(posts)
    report.sharing = count_sharing(groups)
    with open_splits(output, names, mark) as writers:
        for (post, content), split in zip(_read(posts, "writing"), splits, strict=True):
            row = (post.post_id, content.text, content.image, post.label, split)
            writers[split].add(row)
            report.splits[split][post.label] += 1
    print(summarise(report, args.source, args.output))
    return 0


def _label_column(args: argparse.Namespace) -> str | None:
    """The column of labels, None where --label-column= says that there is none."""
    return "label" if args.label_column is None else args.label_column or None


def _check(args: argparse.Namespace) -> None:
    if args.splits and args.label_column == "":
        raise UsageError("--splits: posts without labels are not split; leave it out")
    for option in ("source", "output"):
        if "://" in getattr(args, option):
            name = "SOURCE" if option == "source" else "--output"
            raise UsageError(f"{name}: is a URL; import reads and writes local folders")
    if args.corpus != "table" and (args.column or args.label_column):
        option = "--column" if args.column else "--label-column"
        raise UsageError(f"{option}: only tables have columns to name, not {args.corpus}")
    if args.column and any(item.startswith("image_uri=") for item in args.column):
        raise UsageError("--column image_uri: a table names image files; say image=NAME")


def _look_at(
    candidates: Iterable[RawPost], published: dict[str, str] | None, report: ImportReport
) -> tuple[list[RawPost], list[int]]:
    """Return the posts that stay and their groups; counts what is dropped or missing."""
    if published is not None:
        every = list(candidates)
        candidates = [post for post in every if post.post_id in published]
        if len(candidates) < len(every):
            report.dropped[NO_SPLIT] += len(every) - len(candidates)
    posts, shared = [], []
    for post, content in _read(list(candidates), "reading"):
        if content.nothing:
            report.dropped[EMPTY] += 1
            continue
        _count_faults(post, content, report)
        posts.append(post)
        shared.append(fingerprints(content.text, content.image))
    return posts, group_posts(shared)


def _count_faults(post: RawPost, content: Content, report: ImportReport) -> None:
    if content.text is None:
        report.texts["missing"] += 1
    elif content.encoding not in (None, "utf-8"):
        report.texts[f"read as {content.encoding}"] += 1
    if content.image is None and post.image is None:
        report.images["no file named"] += 1
    elif content.image is None:
        report.images["file missing or empty"] += 1
        report.missing_image = report.missing_image or str(post.image)


def _read(posts: list[RawPost], what: str) -> Iterator[tuple[RawPost, Content]]:
    for post in tqdm(posts, what, unit="post", disable=None):
        yield post, read_content(post)
