"""MVSA-Single and MVSA-Multiple (Niu et al., MMM 2016) as distributed.

A folder with labelResultAll.txt and data/ID.jpg, data/ID.txt. The label file has a header and
a line per post: the id and, separated by tabs, one `text,image` pair of labels per annotator,
one annotator in MVSA-Single, three in MVSA-Multiple.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipelines.importing.corpus import (
    Corpus,
    RawPost,
    check_label,
    check_new,
    data_folder,
    label_lines,
)
from schemas.errors import DRFError

LABELS = ("negative", "neutral", "positive")
LABEL_FILE = "labelResultAll.txt"

CONTRADICTORY = "text positive, image negative or the other way round"
NO_MAJORITY = "annotators without a majority"

_COMMANDS = {1: "mvsa-single", 3: "mvsa-multiple"}


def read_mvsa(folder: Path, annotators: int) -> Corpus:
    """Return the labelled posts of an MVSA folder; annotators: 1 (Single) or 3 (Multiple).

    Each modality has the label that most annotators gave it. Posts whose annotators all
    differ on one modality are dropped, and those that `merge_labels` finds contradictory.
    Raises UsageError for a missing label file or data folder, DRFError for a line that does
    not fit, an unknown label, or a post labelled twice.
    """
    corpus = Corpus(LABEL_FILE, LABELS)
    lines = label_lines(folder / LABEL_FILE)
    data = data_folder(folder, "data")
    seen: dict[str, str] = {}
    for number, (where, line) in enumerate(lines):
        post_id, *pairs = (part.strip() for part in line.split("\t"))
        if number == 0 and post_id.lower() == "id":
            continue
        check_new(post_id, seen, where)
        text, image = _labels_of([pair for pair in pairs if pair], annotators, where)
        if text is None or image is None:
            corpus.dropped[post_id] = NO_MAJORITY
            continue
        label = merge_labels(text, image)
        if label is None:
            corpus.dropped[post_id] = CONTRADICTORY
            continue
        files = data / f"{post_id}.txt", data / f"{post_id}.jpg"
        corpus.posts.append(RawPost(post_id, label, *files, where))
    return corpus


def merge_labels(text: str, image: str) -> str | None:
    """One label of a post from its modalities' labels, as the literature on MVSA does it.

    The same label: that one. One neutral: the other. Positive against negative: None.
    """
    if text == image or image == "neutral":
        return text
    return image if text == "neutral" else None


def majority(votes: list[str]) -> str | None:
    """The label with more votes than any other, None where there is none."""
    (first, most), *others = Counter(votes).most_common()
    return None if others and others[0][1] == most else first


def _labels_of(pairs: list[str], annotators: int, where: str) -> tuple[str | None, str | None]:
    if len(pairs) != annotators:
        other = _COMMANDS.get(len(pairs))
        way_out = f"; is this the corpus of `drf import {other}`?" if other else ""
        raise DRFError(
            f"{where}: found {len(pairs)} pairs of labels, expected {annotators}{way_out}"
        )
    votes: tuple[list[str], list[str]] = ([], [])
    for pair in pairs:
        labels = pair.split(",")
        if len(labels) != 2:
            raise DRFError(f"{where}: found {pair!r}, expected TEXT_LABEL,IMAGE_LABEL")
        for modality, label in zip(votes, labels, strict=True):
            modality.append(check_label(label, LABELS, where))
    return majority(votes[0]), majority(votes[1])
