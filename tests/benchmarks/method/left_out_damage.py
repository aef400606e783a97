"""How well qualities tell damage that no distribution was fitted to: one kind left out at a time.

    python -m tests.benchmarks.method.left_out_damage --posts train.parquet dev.parquet \
        --text-encoder DIR --image-encoder DIR --output DIR

Frozen encoders and folds as in the study, whose --output may be given to share its encoded posts
(with its --epochs, if it had others); nothing is trained. For each fold and kind the distributions
are fitted to the other folds (as many posts as a feature queue holds), damaged in the other kinds;
the table is of the fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drf_core.corpus.views import FeatureViews
from drf_core.evaluation.metrics import auroc
from drf_core.model.head import DAMAGED_PER_UNDISRUPTED
from drf_core.model.input_statistics import KNOWS_LENGTH, STATISTICS_SIGNS
from drf_core.model.projection import Standardiser
from drf_core.model.quality import QualityEstimator
from tests.benchmarks.method.study import LEFT_OUT, TRAINED, Study, corpus_parser, fold_of, prepare

# As long as the recipes have it; the study's trainings have half of it.
_QUEUE = 2048


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    arguments = corpus_parser(__doc__).parse_args(given)
    torch.set_num_threads(arguments.threads)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    study = prepare(arguments, output)
    print("| modality | left out | its AUROC | AUROC of the paper's corruption | clean below .05 |")
    print("|---|---|---|---|---|")
    for modality, kinds in LEFT_OUT.items():
        means = []
        for kind in kinds:
            found = np.mean([_fold(study, modality, kind, fold) for fold in range(study.folds)], 0)
            means.append(found[0])
            print(f"| {modality} | {kind} | " + " | ".join(f"{x:.3f}" for x in found) + " |")
        print(f"| {modality} | mean | {np.mean(means):.3f} | | |", flush=True)


def _fold(study: Study, modality: str, left_out: str, fold: int) -> tuple[float, float, float]:
    side = fold_of(study.groups, study.folds, 0)
    held, others = np.flatnonzero(side == fold), np.flatnonzero(side != fold)
    inner = fold_of(study.groups[others], 8, 1000)
    reference, fitted = others[inner == 0], others[inner != 0][:_QUEUE]
    views = study.views[modality]
    kinds = [kind for kind in TRAINED[modality] if kind != left_out]
    standardise = Standardiser(views.features.shape[2])
    clean = _rows(views, fitted, None)
    standardise.fit(clean)
    damaged = torch.cat(
        [
            _rows(views, fitted[place :: len(kinds)], kinds[(place + turn) % len(kinds)])
            for turn in range(DAMAGED_PER_UNDISRUPTED[modality])
            for place in range(len(kinds))
        ]
    )
    estimator = QualityEstimator(
        views.features.shape[2],
        STATISTICS_SIGNS[modality],
        512,
        knows_length=KNOWS_LENGTH[modality],
    )
    estimator.fit(standardise(clean), standardise(damaged))
    estimator.set_reference(standardise(_rows(views, reference, None)))
    quality = {
        kind: estimator(standardise(_rows(views, held, kind))).numpy()
        for kind in (None, left_out, "corrupt")
    }
    return (
        auroc(quality[None], quality[left_out]),
        auroc(quality[None], quality["corrupt"]),
        float((quality[None] < 0.05).mean()),
    )


def _rows(views: FeatureViews, posts: np.ndarray, kind: str | None) -> Tensor:
    index = torch.from_numpy(posts)
    features, present = views.pick(index, [kind] * len(posts))
    return features[present]


if __name__ == "__main__":
    main()
