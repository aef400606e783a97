"""Fitting a finished model to posts without labels: what its qualities are ranks among, its memory.

Nothing is learned: encoders, projections, heads and the distributions of damaged and undamaged
features stay as they were trained. The distributions would need posts damaged on purpose; that is
a training's business.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from drf_core.corpus.views import FeatureViews
from drf_core.model.head import OTHER, FeatureModel
from drf_core.training.fitting import paired_posts, rank_among
from schemas.annotations import MODALITIES

# Posts are dealt into so many folds, by what they contain: copies of a post are in one.
FOLDS = 10


@dataclass(frozen=True)
class Adaptation:
    """What became of the posts by it; tensors are of those that have the modality.

    before, after: their qualities. unseen: by a reference fitted without the post's own fold.
    recovery_errors: by modality, mean distance of recovered features to the posts' own before and
    after, of pairs that are not in the memory; empty without any. labels_changed: share of posts.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    unseen: dict[str, Tensor]
    recovery_errors: dict[str, tuple[float, float]]
    labels_changed: float


@torch.no_grad()
def adapt(model: FeatureModel, views: Mapping[str, FeatureViews], folds: Tensor) -> Adaptation:
    """Rank qualities among these posts, and recover from them; changes the model.

    views: of posts as they came, in an order that is chance's. folds (posts,) int: of FOLDS.
    Pairs of the even folds are pushed to the paired queue, as training pushes them; recoveries are
    ranked among those of the odd ones.
    """
    model.eval()
    standard = {m: model.standardise[m](_present(model, views[m])) for m in MODALITIES}
    pairs = paired_posts(views)
    queued, held_out = pairs & (folds % 2 == 0), pairs & (folds % 2 == 1)
    before = {m: model.quality[m](standard[m]) for m in MODALITIES}
    unseen = {
        m: _unseen(model, m, standard[m], folds[views[m].present[:, 0]].to(model.device))
        for m in MODALITIES
    }
    labels, errors = _labels(model, views), _recovery_errors(model, views, held_out)
    # No training's posts: none of them must be left out when they are recovered.
    of_none = torch.full((int(queued.sum()),), -1, device=model.device)
    rows = {m: views[m].features[queued, 0].to(model.device) for m in MODALITIES}
    model.paired_queue.push(rows, of_none)
    model.forget_memory()
    rank_among(model, views, held_out)
    later = _recovery_errors(model, views, held_out)
    changed = (_labels(model, views) != labels).float().mean()
    return Adaptation(
        before,
        {m: model.quality[m](standard[m]) for m in MODALITIES},
        unseen,
        {m: (errors[m], later[m]) for m in errors},
        float(changed),
    )


def _present(model: FeatureModel, of: FeatureViews) -> Tensor:
    return of.features[of.present[:, 0], 0].float().to(model.device)


def _unseen(model: FeatureModel, modality: str, features: Tensor, folds: Tensor) -> Tensor:
    """Qualities of standardised features (n, size) by references without their own fold; (n,)."""
    quality = copy.deepcopy(model.quality[modality])
    found = torch.ones(len(features), device=features.device)
    for fold in folds.unique().tolist():
        own = folds == fold
        if not bool(own.all()):
            quality.set_reference(features[~own])
            found[own] = quality(features[own])
    return found


def _labels(model: FeatureModel, views: Mapping[str, FeatureViews]) -> Tensor:
    present = torch.stack([views[m].present[:, 0] for m in MODALITIES], 1).to(model.device)
    text, image = (_present(model, views[m]) for m in MODALITIES)
    output = model.forward_features(text, image, present)
    assert output.logits is not None
    return output.logits.argmax(-1)


def _recovery_errors(
    model: FeatureModel, views: Mapping[str, FeatureViews], pairs: Tensor
) -> dict[str, float]:
    if not bool(pairs.any()):
        return {}
    memory = model.memory()
    hidden = {
        m: model.projection[m].without_dropout(
            model.standardise[m](views[m].features[pairs, 0].float().to(model.device))
        )
        for m in MODALITIES
    }
    return {
        m: float(
            (model.recovery[m](hidden[n], memory[n], memory[m]) - hidden[m]).norm(dim=1).mean()
        )
        for m, n in OTHER.items()
    }
