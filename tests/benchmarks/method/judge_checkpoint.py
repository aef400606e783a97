"""What a checkpoint says of posts that it has not learned from, and what its qualities tell.

    python -m tests.benchmarks.method.judge_checkpoint CHECKPOINT --tweets HELD_OUT.parquet \
        --posts dev.parquet --nights nights/dt=2026-11-18 nights/dt=2026-11-19

--tweets: labelled texts (`split_tweets` sets some aside). --posts: labelled posts with images,
judged under a uniform prior and under their own shares of labels. --nights: unlabelled posts.
Plain sentences, texts that are no posts and images that are no photographs are of tests/data.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from drf_core.annotator import Annotator, Prediction
from pipelines.posts.labelled import read_training_rows
from schemas.annotations import MODALITIES
from schemas.posts import parse_columns
from tests.data.non_posts import NOT_POSTS, PLAIN_POSTS, SHORT_POSTS, not_photographs
from tests.data.plain_sentences import PLAIN_SENTENCES


class Post(NamedTuple):
    """A text, an image file, and its label if somebody gave one."""

    text: str | None
    image: bytes | None = None
    label: str | None = None


def main(given: Sequence[str] | None = None) -> None:
    """Judge a checkpoint and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--tweets", required=True)
    parser.add_argument("--posts", required=True)
    parser.add_argument("--nights", nargs="*", default=[])
    parser.add_argument("--runtime", default="auto")
    args = parser.parse_args(given)
    annotator = Annotator.from_pretrained(args.checkpoint, runtime=args.runtime)
    print(f"{args.checkpoint}, {annotator.runtime}")
    tweets, posts = read(args.tweets, "label"), read(args.posts, "label")
    labels = list(annotator.labels)
    shares = np.bincount([labels.index(str(post.label)) for post in posts], minlength=len(labels))
    own = shares / shares.sum()
    say_labels(annotator, "tweets", tweets)
    say_labels(annotator, "posts", posts)
    say_labels(annotator, "posts, their own prior", posts, own)
    gone = [post._replace(text=None) for post in posts if post.image]
    say_labels(annotator, "posts, text gone, their own prior", gone, own)
    say_labels(annotator, "posts, image gone, their own prior",
               [post._replace(image=None) for post in posts if post.text], own)  # fmt: skip
    plain = [Post(text, None, label) for text, label in PLAIN_SENTENCES]
    said = predict(annotator, plain)
    right = sum(one.label == post.label for one, post in zip(said, plain, strict=True))
    print(f"plain sentences: {right} of {len(plain)} right")
    say_qualities(
        annotator,
        "text",
        [Post(text) for text in PLAIN_POSTS],
        [Post(text) for text in NOT_POSTS],
    )
    short = predict(annotator, [Post(text) for text in SHORT_POSTS])
    low = sum(one.text.state == "low_quality" for one in short)
    print(f"texts of a few words: {low} of {len(short)} low_quality")
    nights = [read(night, None) for night in args.nights]
    photographs = [Post(None, post.image) for night in nights for post in night if post.image]
    if photographs:
        strange = [Post(None, _png(image)) for image in not_photographs(60)]
        say_qualities(annotator, "image", photographs, strange)
    for name, night in zip(args.nights, nights, strict=True):
        seen = predict(annotator, night)
        for modality in MODALITIES:
            found = [getattr(one, modality) for one in seen]
            there = np.array([one.quality for one in found if one.reason is None])
            print(f"{name}, {modality}: {(there < 0.05).mean():.3f} of {len(there)} below .05")


def read(path: str, label: str | None) -> list[Post]:
    """Posts of a file or folder."""
    rows = read_training_rows([path], parse_columns([]), label, "posts")
    return [Post(row.text, row.image, row.label) for row in rows]


def predict(annotator: Annotator, posts: Sequence[Post]) -> list[Prediction]:
    """What is said of the usable ones."""
    prepared = [annotator.prepare(post.text, post.image) for post in posts]
    usable = [post for post in prepared if post.usable]
    size = annotator.batch_size
    return [
        prediction
        for start in range(0, len(usable), size)
        for prediction in annotator.predict(usable[start : start + size])
    ]


def say_labels(
    annotator: Annotator, name: str, posts: Sequence[Post], prior: np.ndarray | None = None
) -> None:
    """Print how many labels are right; prior (labels,): in place of a uniform one."""
    labels = list(annotator.labels)
    said = np.array([one.probabilities for one in predict(annotator, posts)])
    found = (said if prior is None else said * prior).argmax(1)
    truth = np.array([labels.index(str(post.label)) for post in posts])
    print(
        f"{name}: {len(posts)} posts, accuracy {accuracy_score(truth, found):.3f}, macro F1 "
        f"{f1_score(truth, found, average='macro'):.3f}, macro recall "
        f"{recall_score(truth, found, average='macro'):.3f}"
    )


def say_qualities(
    annotator: Annotator, modality: str, usual: Sequence[Post], strange: Sequence[Post]
) -> None:
    """Print how well qualities tell what is usual from what is strange."""
    qualities = [
        [getattr(one, modality).quality for one in predict(annotator, posts)]
        for posts in (usual, strange)
    ]
    truth = [1] * len(qualities[0]) + [0] * len(qualities[1])
    area = roc_auc_score(truth, qualities[0] + qualities[1])
    low = np.mean(np.array(qualities[1]) < 0.05)
    print(f"{modality} quality: AUROC {area:.3f}, {low:.2f} of what is strange below .05")


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


if __name__ == "__main__":
    main()
