"""What a sentiment lexicon adds to a checkpoint's features.

    pip install vaderSentiment
    python -m tests.benchmarks.method.lexicon_features CHECKPOINT TRAIN.parquet HELD_OUT.parquet

Logistic regression on what the checkpoint's encoders make of the posts of one file, with and
without VADER's numbers of their texts (negative, neutral, positive, compound, its size, and whether
it knows no word), judged on the posts of the other; of those that have all that the first's have.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from drf_core.annotator import Annotator
from tests.benchmarks.method.judge_checkpoint import Post, read

# Inverse strengths of regularisation, from too strong to too weak.
_STRENGTHS = (0.001, 0.003, 0.01, 0.03)


class Read(NamedTuple):
    """Of posts: features (posts, size), VADER's numbers (posts, 6), labels (posts,)."""

    features: np.ndarray
    lexicon: np.ndarray
    labels: np.ndarray


def main(checkpoint: str, train: str, held_out: str) -> None:
    """Print figures with and without, for each strength of regularisation."""
    annotator = Annotator.from_pretrained(checkpoint, runtime="auto")
    posts = read(train, "label")
    with_images = any(post.image for post in posts)
    learned, judged = (_read(annotator, of, with_images) for of in (posts, read(held_out, "label")))
    print(f"{len(learned.labels)} posts to learn from, {len(judged.labels)} to judge by")
    for strength in _STRENGTHS:
        for name, inputs in (("without", [0]), ("with", [0, 1])):
            known, asked = (np.concatenate([of[n] for n in inputs], 1) for of in (learned, judged))
            model = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=strength, class_weight="balanced", max_iter=300),
            )
            model.fit(known, learned.labels)
            found, odds = model.predict(asked), model.predict_proba(asked)
            f1 = f1_score(judged.labels, found, average="macro")
            recall = recall_score(judged.labels, found, average="macro")
            area = roc_auc_score(judged.labels, odds, multi_class="ovr")
            print(
                f"C {strength}, {name} the lexicon: "
                f"macro F1 {f1:.3f}, macro recall {recall:.3f}, AUROC {area:.4f}"
            )


def _read(annotator: Annotator, posts: list[Post], with_images: bool) -> Read:
    pairs = [(post, annotator.prepare(post.text, post.image)) for post in posts]
    pairs = [(p, made) for p, made in pairs if made.has_text and made.has_image >= with_images]
    parts = []
    for start in range(0, len(pairs), annotator.batch_size):
        batch = [made for _, made in pairs[start : start + annotator.batch_size]]
        text, image = annotator.encode(batch)
        assert text is not None
        parts.append(
            np.concatenate([text, image], 1) if with_images and image is not None else text
        )
    analyzer = SentimentIntensityAnalyzer()
    scores = [analyzer.polarity_scores(post.text) for post, _ in pairs]
    lexicon = [
        [s["neg"], s["neu"], s["pos"], s["compound"], abs(s["compound"]), s["compound"] == 0]
        for s in scores
    ]
    labels = [annotator.labels.index(str(post.label)) for post, _ in pairs]
    return Read(np.concatenate(parts), np.array(lexicon, float), np.array(labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
