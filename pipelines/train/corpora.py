"""The posts of a training: several labelled corpora, auxiliary tasks, and what is held out."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipelines.console.command_line import shown
from pipelines.console.messages import say
from schemas.errors import UsageError
from schemas.posts import parse_columns

if TYPE_CHECKING:
    from drf_core.corpus.posts import TrainingPost
    from drf_core.training.text_expert import TaskSettings, TextTask
    from pipelines.posts.labelled import LabelledRow
    from pipelines.train.config import TrainConfig

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Corpora:
    """What a training learns from and is judged by.

    posts: to train the fusion on, each with the number of its corpus; validation, test: held out.
    tasks: what the text encoder is tuned on before; adaptation: what it is adapted to after that.
    unlabelled: texts whose words are familiar.
    """

    posts: list[TrainingPost]
    validation: list[TrainingPost]
    test: list[TrainingPost]
    labels: tuple[str, ...]
    tasks: list[TextTask]
    adaptation: list[TextTask]
    unlabelled: list[TrainingPost]

    @property
    def texts(self) -> list[str]:
        """All texts that may be learned from, as they came."""
        # Those without an image are among the texts of the tasks, where there are any.
        posts = [post for post in self.posts if post.image is not None or not self.tasks]
        known = [post.text for post in (*posts, *self.unlabelled) if post.text]
        return [*known, *(text for task in self.tasks for text in task.texts)]


def read_corpora(args: argparse.Namespace, config: TrainConfig, folder: Path) -> Corpora:
    """Read all that `drf train` was given; folder: on the disk that is to hold the images.

    Each --posts is a corpus with shares of labels of its own; --weights says which share of its
    posts the fusion is trained on. Posts whose text is among those held out are left out.
    Raises UsageError for posts that nothing can be learned from.
    """
    from drf_core.corpus.posts import UNLABELLED
    from pipelines.posts.labelled import hold_out, labels_of, read_training_rows, to_training_posts

    columns = parse_columns(args.column, args.image_folder)
    weights = args.weights or [1.0] * len(args.posts)
    if len(weights) != len(args.posts):
        raise UsageError(
            f"--weights: {len(weights)} for {len(args.posts)} corpora; give --posts once for each "
            "corpus, and a weight for each"
        )
    if not all(0 <= weight <= 1 for weight in weights):
        raise UsageError("--weights: give shares between 0 and 1")
    if args.auxiliary and not config.text_expert:
        raise UsageError("--auxiliary: needs a section text_expert in --config, which learns it")
    corpora = [
        read_training_rows(paths, columns, args.label_column, folder=folder) for paths in args.posts
    ]
    labels = labels_of([row for corpus in corpora for row in corpus])
    test = _read_labelled(args, "--test", args.test, labels, folder) if args.test else []
    if args.validation:
        validation = _read_labelled(args, "--validation", args.validation, labels, folder)
    else:
        _, rows = hold_out([row for corpus in corpora for row in corpus], args.seed)
        held = {id(row) for row in rows}
        # In the shares in which the fusion learns from them.
        rows = [
            row
            for corpus, weight in zip(corpora, weights, strict=True)
            for row in _share([row for row in corpus if id(row) in held], weight, args.seed)
        ]
        corpora = [[row for row in corpus if id(row) not in held] for corpus in corpora]
        validation = to_training_posts(rows, labels, "--posts")
    held_out = _texts(validation) | _texts(test)
    posts: list[TrainingPost] = []
    textual: list[TrainingPost] = []
    for number, (corpus, weight) in enumerate(zip(corpora, weights, strict=True)):
        whole = [
            replace(post, corpus=number) for post in to_training_posts(corpus, labels, "--posts")
        ]
        kept = [post for post in whole if not _is_in(post, held_out)]
        if len(kept) < len(whole):
            say(
                f"{shown(args.posts[number][0])}: {len(whole) - len(kept)} posts left out, whose "
                "text is among those held out"
            )
        if not any(post.image for post in kept):
            textual += kept
        posts += _share(kept, weight, args.seed)
    # What the fusion learns beside images must not have been learned by heart before.
    known = held_out | _texts([post for post in posts if post.image is not None])
    tasks = _tasks(args, config, labels, textual, known, folder) if config.text_expert else []
    unlabelled = []
    if args.unlabelled:
        rows = read_training_rows(args.unlabelled, columns, None, "--unlabelled", folder)
        unlabelled = to_training_posts(rows, labels, "--unlabelled")
        if args.teacher and config.text_expert:
            # The teacher judges their texts while the text encoder is tuned.
            task = config.text_expert.task("unlabelled")
            tasks += _task("unlabelled", unlabelled, labels, task, known, args.seed)
        elif args.teacher:
            wanted = config.distillation.unlabelled_posts or len(unlabelled)
            drawn = random.Random(args.seed).sample(unlabelled, min(wanted, len(unlabelled)))
            posts += drawn
    counts = Counter(post.label for post in posts if post.label != UNLABELLED)
    if len(counts) < 2:
        raise UsageError(
            f"--posts: {counts.total()} labelled posts are left to train on, of {len(counts)} "
            "labels, where two are needed; those whose text is among the held-out posts are left "
            "out, so give other posts for --validation and --test (or none), or more --weights"
        )
    labelled = counts.total()
    shares = ", ".join(f"{name} {counts[n] / labelled:.1%}" for n, name in enumerate(labels))
    say(
        f"{len(posts)} posts to train on ({labelled} labelled), {len(validation)} to validate, "
        f"{len(test)} to test; labels {shares}"
    )
    adaptation = []
    if config.text_adaptation is not None:
        for name, images in (("images", True), ("others", False)):
            own = [post for post in posts if (post.image is not None) == images]
            task = config.text_adaptation.task(name)
            unseen = set() if images else known
            adaptation += _task("sentiment", own, labels, task, unseen, args.seed)
    return Corpora(posts, validation, test, labels, tasks, adaptation, unlabelled)


def _read_labelled(
    args: argparse.Namespace,
    option: str,
    paths: list[str],
    labels: tuple[str, ...],
    folder: Path,
) -> list[TrainingPost]:
    """Posts of which at least one has a label; raises UsageError, naming option, for others."""
    from drf_core.corpus.posts import UNLABELLED
    from pipelines.posts.labelled import read_training_rows, to_training_posts

    rows = read_training_rows(
        paths, parse_columns(args.column, args.image_folder), args.label_column, option, folder
    )
    posts = to_training_posts(rows, labels, option)
    if not any(post.label != UNLABELLED for post in posts):
        raise UsageError(f"{option}: no post has a label")
    return posts


def _tasks(
    args: argparse.Namespace,
    config: TrainConfig,
    labels: tuple[str, ...],
    textual: Sequence[TrainingPost],
    known: set[str],
    folder: Path,
) -> list[TextTask]:
    """The sentiment of the corpora without images, and each auxiliary task."""
    from pipelines.posts.labelled import labels_of, read_training_rows, to_training_posts

    assert config.text_expert is not None
    given = [("sentiment", textual, labels)]
    for named in args.auxiliary:
        name, found, path = named.partition("=")
        if not found or not name or not path:
            raise UsageError(f"--auxiliary {named}: give NAME=PATH, such as emoji=tweets.parquet")
        if name in ("unlabelled", *(task for task, _, _ in given)):
            raise UsageError(f"--auxiliary {named}: there is a task {name!r} already; rename it")
        columns = parse_columns(args.column, args.image_folder)
        rows: list[LabelledRow] = read_training_rows(
            [path], columns, args.label_column, "--auxiliary", folder
        )
        own = labels_of(rows)
        given.append((name, to_training_posts(rows, own, "--auxiliary"), own))
    tasks = []
    for name, posts, own in given:
        tasks += _task(name, posts, own, config.text_expert.task(name), known, args.seed)
    return tasks


def _task(
    name: str,
    posts: Sequence[TrainingPost],
    labels: tuple[str, ...],
    settings: TaskSettings,
    known: set[str],
    seed: int,
) -> list[TextTask]:
    """The labelled texts of posts but for those in known; nothing where there are none.

    As many as settings says are drawn, by the seed. Of unlabelled ones all texts, for the teacher
    to judge.
    """
    import torch

    from drf_core.corpus.posts import UNLABELLED
    from drf_core.decoding.plain_tweet import plain_tweet
    from drf_core.training.text_expert import SENTIMENT, TextTask

    labelled = name != "unlabelled"
    kept = [
        (text, post.label)
        for post in posts
        if post.text and (post.label != UNLABELLED or not labelled)
        for text in [plain_tweet(post.text)]
        if text and text not in known
    ]
    if not kept:
        return []
    if 0 < settings.posts < len(kept):
        kept = random.Random(seed).sample(kept, settings.posts)
    say(f"text encoder: {len(kept)} texts of {name}, {len(labels)} labels")
    return [
        TextTask(
            name if labelled else SENTIMENT,
            [text for text, _ in kept],
            torch.tensor([label for _, label in kept]) if labelled else None,
            labels,
            settings.passes,
            settings.weight,
            settings.ends,
            adjusted=name == SENTIMENT,
        )
    ]


def _share(items: Sequence[_Item], share: float, seed: int) -> Sequence[_Item]:
    """That share of the items, drawn by the seed; all of them as they come where it is 1."""
    count = round(share * len(items))
    return items if count >= len(items) else random.Random(seed).sample(items, count)


def _texts(posts: Sequence[TrainingPost]) -> set[str]:
    from drf_core.decoding.plain_tweet import plain_tweet

    return {plain_tweet(post.text) for post in posts if post.text}


def _is_in(post: TrainingPost, texts: set[str]) -> bool:
    from drf_core.decoding.plain_tweet import plain_tweet

    return bool(post.text) and plain_tweet(post.text or "") in texts
