"""Cross-validated evidence: DRF and its rivals, trained alike and compared.

    python -m tests.benchmarks.method.study --posts train.parquet dev.parquet \
        --text-encoder DIR --image-encoder DIR --output DIR

Encoders stay frozen, so that every post is encoded once in every kind of damage and a training
takes seconds. Outer folds are only predicted; on an eighth of the other posts each design's epoch
is chosen, its temperature and operating point are fitted and qualities are ranked. Posts that share
a text or an image share a fold. In every training one kind of damage per modality, beside the
paper's, is left out; what a model says of posts damaged in that kind counts as "unseen". All
designs have the same settings, encoders, damage, distillation and seeds. Each training is kept, so
that a study goes on where it was stopped; all seeds of a fold come before the next fold.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drf_core.corpus.disruption import TRAINED_IMAGE_KINDS, TRAINED_TEXT_KINDS
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import Cell, cells, kinds_to_encode, modality_fixed_cells
from drf_core.model.designs import DESIGNS
from drf_core.model.modeling_drf import DRFModel
from drf_core.training.building import build_model
from drf_core.training.settings import TrainingSettings
from drf_core.training.trainer import Trainer
from pipelines.posts.duplicates import fingerprints, group_posts
from pipelines.posts.labelled import labels_of, read_training_rows, to_training_posts
from pipelines.train.resume import begin, encode_frozen
from schemas.annotations import MODALITIES
from schemas.posts import PostColumns
from tests.benchmarks.method.study_report import SUBJECT, write_report

TRAINED = {"text": TRAINED_TEXT_KINDS, "image": TRAINED_IMAGE_KINDS}
# Kinds beside the paper's that the protocol evaluates and training otherwise uses.
LEFT_OUT = {
    "text": ("typos", "no_vowels", "cropped"),
    "image": ("blur", "noise", "jpeg", "occlusion"),
}
SETTINGS = TrainingSettings(epochs=10, train_text_encoder=False, patience=10)
DEFAULT_DESIGNS = [
    SUBJECT, "drf_concatenating", "concatenation", "late_average", "text_only", "qmf", "pdf",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    """What all trainings of a study share."""

    corpus: TrainingCorpus
    views: dict[str, FeatureViews]
    groups: np.ndarray
    cells: list[Cell]
    labels: tuple[str, ...]
    model: DRFModel
    settings: TrainingSettings
    folds: int


def main(given: Sequence[str] | None = None) -> None:
    """Run what is missing of the study, then write its tables."""
    arguments = _arguments(given)
    torch.set_num_threads(arguments.threads)
    output = Path(arguments.output)
    (output / "_runs").mkdir(parents=True, exist_ok=True)
    study = prepare(arguments, output)
    for fold in range(arguments.folds):
        for seed in range(arguments.seeds):
            for design in arguments.designs:
                path = output / "_runs" / f"{design}-{seed}-{fold}.npz"
                if path.exists():
                    _check_fold(study, seed, fold, path)
                else:
                    begun = time.monotonic()
                    _run(study, design, seed, fold, path)
                    print(f"{path.stem}: {time.monotonic() - begun:.0f} s", flush=True)
    write_report(output, arguments.designs, study.cells, study.corpus.labels.numpy())


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = corpus_parser(__doc__)
    parser.add_argument("--designs", nargs="+", default=DEFAULT_DESIGNS)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args(given)
    for design in arguments.designs:
        if design not in DESIGNS:
            parser.error(f"--designs: {design!r} is not among {', '.join(DESIGNS)}")
    if SUBJECT not in arguments.designs or len(arguments.designs) < 2:
        parser.error(f"--designs: the tables compare {SUBJECT} with others; name it and another")
    return arguments


def corpus_parser(doc: str) -> argparse.ArgumentParser:
    """Options that say what is encoded and how it is split; doc: of the module."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--posts", nargs="+", required=True)
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--image-encoder", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    return parser


def prepare(arguments: argparse.Namespace, output: Path) -> Study:
    """Read and encode the posts, or take them from output where they are encoded already."""
    rows = [
        row
        for row in read_training_rows(arguments.posts, PostColumns(), "label")
        if row.label is not None
    ]
    labels = labels_of(rows)
    posts = to_training_posts(rows, labels, "--posts")
    settings = dataclasses.replace(SETTINGS, epochs=arguments.epochs)
    begin(output, (arguments.text_encoder, arguments.image_encoder, labels, settings), posts)
    model, processor = build_model(
        arguments.text_encoder,
        arguments.image_encoder,
        labels,
        [],
        {},
        queue_length=1024,
        max_text_tokens=64,
    )
    corpus = TrainingCorpus(posts, processor, 64)
    views = {}
    for m, trained in TRAINED.items():
        kinds = list(dict.fromkeys([*trained, *kinds_to_encode(m)]))
        views[m] = encode_frozen(output, "study", model, corpus, m, kinds, 0)
    groups = np.array(group_posts([fingerprints(post.text, post.image) for post in posts]))
    return Study(corpus, views, groups, cells(len(posts)), labels, model, settings, arguments.folds)


def fold_of(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each post, the same for a group; differs between seeds."""
    digests = {
        group: hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
        for group in np.unique(groups).tolist()
    }
    ranked = {group: place for place, group in enumerate(sorted(digests, key=digests.__getitem__))}
    return np.array([ranked[group] % folds for group in groups.tolist()])


def left_out(seed: int, fold: int) -> dict[str, str]:
    """The kind of damage per modality that this training does not use."""
    return {m: kinds[(seed + fold) % len(kinds)] for m, kinds in LEFT_OUT.items()}


def _check_fold(study: Study, seed: int, fold: int, path: Path) -> None:
    held = np.flatnonzero(fold_of(study.groups, study.folds, seed) == fold)
    if not np.array_equal(np.load(path)["posts"], held):
        raise SystemExit(
            f"{path}: is of a study with another number of folds; give that or another --output"
        )


def _run(study: Study, design: str, seed: int, fold: int, path: Path) -> None:
    side = fold_of(study.groups, study.folds, seed)
    held = np.flatnonzero(side == fold)
    others = np.flatnonzero(side != fold)
    inner = fold_of(study.groups[others], 8, seed + 1000)
    validation, train = others[inner == 0], others[inner != 0]
    gone = left_out(seed, fold)
    kinds = {m: [kind for kind in TRAINED[m] if kind != gone[m]] for m in TRAINED}
    settings = dataclasses.replace(
        study.settings, seed=seed, text_kinds=kinds["text"], image_kinds=kinds["image"]
    )
    torch.manual_seed(seed)
    config = type(study.model.config).from_dict(study.model.config.to_dict())
    config.design = design
    made = DRFModel if DESIGNS[design].quality_weights else _Unweighted
    model = made(config, study.model.text_encoder, study.model.image_encoder)
    parts = [_part(study, index) for index in (train, validation)]
    trainer = Trainer(
        model, parts[0][0], parts[1][0], settings, views=parts[0][1], validation_views=parts[1][1]
    )
    trainer.run(None, lambda line: None)
    tested = [
        dataclasses.replace(
            cell, disruptions=tuple(cell.disruptions[post] for post in held.tolist())
        )
        for cell in study.cells
    ]
    said = outcomes(model, _part(study, held)[1], tested)
    seen = outcomes(model, parts[1][1], modality_fixed_cells(len(validation)))
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez_compressed(
        unfinished,
        posts=held,
        probabilities=np.stack([one.probabilities for one in said]).astype(np.float32),
        offset=fit_offset(
            np.stack([one.probabilities for one in seen]), study.corpus.labels[validation].numpy()
        ),
        epoch=1 + int(np.argmax([entry["score"] for entry in trainer.history])),
        left_out=json.dumps(gone),
        trained=json.dumps(model.config.trained_kinds),
        unseen=np.array([_unseen(cell, gone) for cell in study.cells]),
    )
    unfinished.rename(path)


def fit_offset(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What to add to each label's logarithm so that validation posts have the least log loss.

    probabilities (cells, posts, labels) under a uniform prior, labels (posts,); the loss is that
    under the labels' shares. A design that leans to a label, as late fusions do to the most
    frequent one, is brought to the same operating point as the others. Returns (labels,).
    """
    logs = torch.from_numpy(probabilities).double().clamp_min(1e-9).log()
    truth = torch.from_numpy(labels)
    shares = torch.bincount(truth, minlength=logs.shape[-1]).clamp_min(1) / len(truth)
    offset = torch.zeros(logs.shape[-1], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([offset], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (logs + shares.log() + offset).flatten(0, 1)
        found = torch.nn.functional.cross_entropy(logits, truth.repeat(len(logs)))
        found.backward()
        return found

    optimizer.step(loss)
    return (offset - offset.mean()).detach().numpy()


class _Unweighted(DRFModel):
    """A design that no quality enters, without the distributions that only make qualities."""

    @property
    def _wants_quality(self) -> bool:
        return False

    def fit_distributions(self, standardise: bool = True) -> None:
        """Fit the standardisation of inputs alone."""
        for m in MODALITIES:
            if standardise:
                self.standardise[m].fit(self.undisrupted_queues[m].rows(m))
        self.forget_memory()

    def _quality_of_recovered(
        self, modality: str, source: Tensor, memory: dict[str, Tensor]
    ) -> Tensor:
        return torch.ones(len(source))

    def _damage(self, raw: dict[str, Tensor | None], present: Tensor) -> Tensor:
        return torch.full(present.shape, -1)


def _unseen(cell: Cell, gone: dict[str, str]) -> bool:
    """Whether the cell damages posts in a way that the training did not."""
    return any(kind not in TRAINED[m] or kind == gone[m] for m, kind in cell.damages)


def _part(study: Study, index: np.ndarray) -> tuple[TrainingCorpus, dict[str, FeatureViews]]:
    rows = torch.from_numpy(index)
    posts: Sequence[TrainingPost] = [study.corpus.posts[i] for i in index.tolist()]
    corpus = TrainingCorpus(posts, study.corpus.processor, study.corpus.max_tokens)
    return corpus, {m: views.rows(rows) for m, views in study.views.items()}


if __name__ == "__main__":
    main()
