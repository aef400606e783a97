"""The posts of an evaluation: labelled, usable, and on demand without near duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drf_core.corpus.images import image_digest
from drf_core.corpus.posts import TrainingPost, usable
from pipelines.evaluate.details import PostPlace
from pipelines.posts.duplicates import fingerprint, near_duplicates
from pipelines.posts.labelled import stream_training_rows
from schemas.errors import SchemaError, UsageError
from schemas.posts import PostColumns

# A label column that is none may hold anything.
_LONGEST_LABEL_SHOWN = 40


@dataclass(frozen=True)
class EvaluationPosts:
    """The posts to evaluate on, and how many of those read were left out, by reason.

    places: where each post came from.
    """

    posts: list[TrainingPost]
    places: list[PostPlace]
    unlabelled: int = 0
    unusable: int = 0
    same_text: int = 0
    same_image: int = 0
    near_duplicates: int = 0


def read_evaluation_posts(
    paths: Sequence[str],
    columns: PostColumns,
    label_column: str,
    labels: Sequence[str],
    excluded: Sequence[str] = (),
    folder: Path | None = None,
) -> EvaluationPosts:
    """Read the posts of --posts that have a label and something usable.

    labels: those of the checkpoints; their positions become the posts' label indices.
    excluded: paths of posts; what shares its text or image with them is left out. folder: see
    `stream_training_rows`. Raises SchemaError for a label that no checkpoint knows, UsageError
    where nothing is left.
    """
    if label_column in (columns.text, columns.post_id, columns.image):
        raise UsageError(
            f"--label-column {label_column}: is read as another part of the post; "
            "name the column that holds the labels"
        )
    index = {label: number for number, label in enumerate(labels)}
    posts: list[TrainingPost] = []
    places: list[PostPlace] = []
    unlabelled = unusable = 0
    for row in stream_training_rows(paths, columns, label_column, folder=folder):
        if row.label is None:
            unlabelled += 1
            continue
        if row.label not in index:
            raise _unknown_label(row.file, label_column, row.row, row.label, labels)
        post = TrainingPost(row.text, row.image, index[row.label])
        if usable(post):
            posts.append(post)
            places.append(PostPlace(row.post_id, row.file, row.row))
        else:
            unusable += 1
    if not posts:
        raise UsageError(
            f"--posts: no post has a label in column '{label_column}' and a usable text or image; "
            "evaluating needs labelled posts (--label-column names another column)"
        )
    if not excluded:
        return EvaluationPosts(posts, places, unlabelled, unusable)
    stream = stream_training_rows(excluded, columns, None, "--exclude-near-duplicates-of")
    others = [fingerprint(row.text, row.image) for row in stream]
    text, image = near_duplicates([fingerprint(post.text, post.image) for post in posts], others)
    kept = [number for number, alike in enumerate(text | image) if not alike]
    if not kept:
        raise UsageError(
            "--exclude-near-duplicates-of: every post shares its text or image with those; "
            "evaluate on posts that were held back"
        )
    return EvaluationPosts(
        [posts[number] for number in kept],
        [places[number] for number in kept],
        unlabelled,
        unusable,
        int(text.sum()),
        int(image.sum()),
        int((text | image).sum()),
    )


def corpus_hash(posts: Sequence[TrainingPost]) -> str:
    """What the features of these posts depend on: texts and images in their order."""
    digest = hashlib.sha256()
    for post in posts:
        digest.update(repr(post.text).encode())
        digest.update(image_digest(post.image))
    return digest.hexdigest()


def _unknown_label(
    file: str, column: str, row: int, label: str, labels: Sequence[str]
) -> SchemaError:
    shown = label if len(label) <= _LONGEST_LABEL_SHOWN else label[:_LONGEST_LABEL_SHOWN] + "…"
    return SchemaError(
        file,
        column,
        f"the label {shown!r} in row {row} (counted from 0)",
        f"one of the checkpoint's labels {', '.join(labels)}",
        "map the labels, or name another column with --label-column",
    )
