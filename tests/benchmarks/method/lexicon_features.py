"""What a sentiment lexicon adds to what a checkpoint says of texts.

    pip install vaderSentiment
    python -m tests.benchmarks.method.lexicon_features CHECKPOINT HELD_OUT.parquet

On labelled texts that the checkpoint has not learned from: logistic regression, cross-validated in
ten folds, five times, on the checkpoint's log odds, with and without VADER's numbers (negative,
neutral, positive, compound, its size, and whether it knows no word).
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from drf_core.annotator import Annotator
from tests.benchmarks.method.judge_checkpoint import predict, read


def main(checkpoint: str, held_out: str) -> None:
    """Print macro recall with and without, and the difference with its standard error."""
    annotator = Annotator.from_pretrained(checkpoint, runtime="auto")
    posts = [post._replace(image=None) for post in read(held_out, "label") if post.text]
    said = np.log([one.probabilities for one in predict(annotator, posts)])
    labels = np.array([annotator.labels.index(str(post.label)) for post in posts])
    analyzer = SentimentIntensityAnalyzer()
    scores = [analyzer.polarity_scores(post.text) for post in posts]
    lexicon = np.array(
        [[s["neg"], s["neu"], s["pos"], s["compound"], abs(s["compound"]), s["compound"] == 0]
         for s in scores]
    )  # fmt: skip
    differences = []
    for seed in range(5):
        without, beside = (_recall(f, labels, seed) for f in (said, np.c_[said, lexicon]))
        differences.append(beside - without)
        print(f"without {without:.4f}, with the lexicon {beside:.4f}")
    print(
        f"difference {np.mean(differences):+.4f}, of the splits' spread {np.std(differences):.4f}"
    )


def _recall(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    found = np.zeros_like(labels)
    folds = StratifiedKFold(10, shuffle=True, random_state=seed)
    for train, test in folds.split(features, labels):
        scale = StandardScaler().fit(features[train])
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        model.fit(scale.transform(features[train]), labels[train])
        found[test] = model.predict(scale.transform(features[test]))
    return float(recall_score(labels, found, average="macro"))


if __name__ == "__main__":
    main(*sys.argv[1:])
