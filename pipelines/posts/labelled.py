"""Reading posts to train and evaluate on, with their labels."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from drf_core.corpus.images import ImageFile, StoredImage
from drf_core.corpus.posts import UNLABELLED, TrainingPost, usable
from pipelines.console.messages import say
from pipelines.posts.duplicates import fingerprints, group_posts
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.inputs import list_inputs, read_footer
from pipelines.posts.reading import read_batches
from pipelines.posts.splits import SPLITS, assign_splits
from pipelines.storage.backends import open_url
from pipelines.storage.redaction import redact
from schemas.errors import SchemaError, UsageError
from schemas.posts import BROKEN, PostColumns, check_posts_schema, coerce_posts


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledRow:
    """A post and its label as the file has it, None where it has none; row counts from 0."""

    post_id: str | None
    text: str | None
    image: bytes | StoredImage | None
    label: str | None
    file: str = ""
    row: int = 0


def read_training_rows(
    paths: Sequence[str],
    columns: PostColumns,
    label_column: str | None,
    option: str = "--posts",
    folder: Path | None = None,
) -> list[LabelledRow]:
    """Read all posts of files, folders or globs; see `stream_training_rows`."""
    return list(stream_training_rows(paths, columns, label_column, option, folder))


def stream_training_rows(
    paths: Sequence[str],
    columns: PostColumns,
    label_column: str | None,
    option: str = "--posts",
    folder: Path | None = None,
) -> Iterator[LabelledRow]:
    """Read posts of files, folders or globs one by one; label_column None reads no labels.

    option: what gave the paths, for messages. folder: where images are kept in a file without a
    name, None to hold them in memory. A file without an image column holds posts whose
    image is missing. Raises UsageError for paths that name nothing, SchemaError for a missing or
    wrong column, and the listing's error for a file that cannot be read: unlike annotating,
    training stops at the first.
    """
    listing = list_inputs(
        paths, dataclasses.replace(columns, image=None, image_uri=None), option=option
    )
    for warning in listing.warnings:
        say(f"warning: {option}: {warning}")
    if listing.failed:
        raise CorruptInputError(listing.failed[0].error)
    images = None if folder is None else ImageFile(folder)
    rows = sum(file.rows for file in listing.files)
    with tqdm(total=rows, desc=option, unit=" posts", disable=None) as progress:
        for file in listing.files:
            for row in _read_file(file.path, columns, label_column, file.source_file):
                progress.update()
                if images is not None and isinstance(row.image, bytes) and row.image:
                    row = dataclasses.replace(row, image=images.store(row.image))
                yield row


def _read_file(
    url: str, columns: PostColumns, label_column: str | None, name: str
) -> Iterator[LabelledRow]:
    fs, path = open_url(url)
    schema = read_footer(fs, path, columns=columns).schema
    if columns.image not in schema.names and not columns.image_folder:
        if columns.image not in (None, PostColumns().image):
            raise SchemaError(
                name,
                str(columns.image),
                "no such column",
                "the image's bytes",
                "name it with --column image=NAME, or none with --column image=",
            )
        if columns.image and columns.image_uri in schema.names:
            raise SchemaError(
                name,
                str(columns.image_uri),
                "only URIs",
                "the image's bytes",
                "fetch the images first, or read texts alone with --column image=",
            )
        columns = dataclasses.replace(columns, image=None)
    if not columns.image_folder:
        columns = dataclasses.replace(columns, image_uri=None)
    keep = []
    if label_column is not None:
        if label_column not in schema.names:
            raise SchemaError(
                name,
                label_column,
                "no such column",
                "a label per post",
                "name the column that holds them with --label-column",
            )
        found = schema.field(label_column).type
        value = found.value_type if pa.types.is_dictionary(found) else found
        if _names_of(schema, label_column) is None and not (
            pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value)
        ):
            raise SchemaError(name, label_column, str(found), "string", "give labels as words")
        keep = [label_column]
    layout = check_posts_schema(schema, columns, (), name)
    wanted = dict.fromkeys([*layout.read, *keep])
    for first, batch in read_batches(fs, path, name, list(wanted), 256, schema):
        posts = coerce_posts(batch, layout).to_pydict()
        for row, why in enumerate(posts[BROKEN], first):
            if why is not None:
                raise CorruptInputError(f"{name}: record {row}, counted from 0: {why}")
        labels = _labels(batch, label_column, schema)
        images = _images(posts["image"], posts["image_uri"], columns.image_folder, name, first)
        values = zip(posts["post_id"], posts["text"], images, labels, strict=True)
        for offset, value in enumerate(values):
            yield LabelledRow(*value, file=name, row=first + offset)


def _labels(batch: pa.RecordBatch, column: str | None, schema: pa.Schema) -> list[str | None]:
    if column is None:
        return [None] * batch.num_rows
    names, found = _names_of(schema, column), batch.column(column).to_pylist()
    if names is None:
        return found
    # Hugging Face's -1 is a post without a label.
    return [names[n] if n is not None and 0 <= n < len(names) else None for n in found]


def _names_of(schema: pa.Schema, column: str) -> list[str] | None:
    """What the numbers of a Hugging Face ClassLabel stand for; None where a column is none."""
    if not pa.types.is_integer(schema.field(column).type):
        return None
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        names = said["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _images(
    images: Sequence[bytes | None], uris: Sequence[str | None], folder: str, name: str, first: int
) -> Iterator[bytes | None]:
    """The posts' images, read from the folder where the file only says where they lie.

    Unlike annotating, training stops at the first that is not there: a folder that is wrong
    would make a checkpoint that never saw an image.
    """
    for row, (image, uri) in enumerate(zip(images, uris, strict=True), first):
        if image is not None or uri is None:
            yield image
            continue
        if not folder:
            raise UsageError(
                f"{name}: row {row} only names its image, {redact(uri)}; say with --image-folder "
                "where it lies (addresses: fetch the images first), or leave images out with "
                "--column image="
            )
        fs, root = open_url(folder)
        _, path = open_url(uri)
        if not posixpath.normpath(path).startswith(f"{root.rstrip('/')}/"):
            raise UsageError(f"{name}: row {row}: its image lies outside --image-folder {folder}")
        try:
            yield fs.cat_file(path)
        except FileNotFoundError as error:
            raise UsageError(
                f"{name}: row {row}: its image {path} is not there; "
                "does --image-folder name the right folder?"
            ) from error


def labels_of(rows: Sequence[LabelledRow]) -> tuple[str, ...]:
    """The labels that occur, sorted; raises UsageError for fewer than two."""
    labels = sorted({row.label for row in rows if row.label is not None})
    if len(labels) < 2:
        raise UsageError(
            f"--posts: found {len(labels)} different labels; training needs at least two "
            "(is --label-column the right one?)"
        )
    return tuple(labels)


def hold_out(rows: Sequence[LabelledRow], seed: int) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Split off about a tenth of the posts; those that share a text or an image stay together.

    Returns (kept, held out). Raises UsageError for posts too few or too alike to split, so that
    each side has labelled ones.
    """
    groups = group_posts([fingerprints(row.text, row.image) for row in rows])
    ids = [row.post_id or f"row {number}" for number, row in enumerate(rows)]
    # Not the seed itself: posts that an import with the same one put into train would all be
    # put there again.
    held = [side == SPLITS[-1] for side in assign_splits(ids, groups, -1 - seed)]
    # Posts without a label neither train nor judge alone.
    sides = {out for row, out in zip(rows, held, strict=True) if row.label is not None}
    if sides != {True, False}:
        raise UsageError(
            f"--posts: {len(rows)} posts cannot be split; give others with --validation"
        )
    kept = [row for row, out in zip(rows, held, strict=True) if not out]
    return kept, [row for row, out in zip(rows, held, strict=True) if out]


def to_training_posts(
    rows: Sequence[LabelledRow], labels: Sequence[str], option: str
) -> list[TrainingPost]:
    """Usable rows as posts with label indices.

    Leaves out what has neither a text to read nor an image that decodes. option: where the
    rows come from. Raises UsageError for a label that is unknown.
    """
    index = {label: number for number, label in enumerate(labels)}
    unknown = sorted({row.label for row in rows if row.label is not None} - set(index))
    if unknown:
        raise UsageError(
            f"{option}: label {unknown[0]!r} is not among the labels {', '.join(labels)}"
        )
    posts = [
        TrainingPost(row.text, row.image, UNLABELLED if row.label is None else index[row.label])
        for row in rows
    ]
    found = [post for post in posts if usable(post)]
    if not found:
        raise UsageError(f"{option}: holds no post with a text or an image")
    return found
