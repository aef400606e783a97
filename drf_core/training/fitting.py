"""What is fitted to posts rather than learned: queues, reference of qualities, temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from drf_core.corpus.disruption import DISCARD, Disruption
from drf_core.corpus.posts import TrainingCorpus
from drf_core.corpus.views import FeatureViews, PickedFeatures
from drf_core.evaluation.predictions import outcomes
from drf_core.evaluation.protocol import modality_fixed_cells
from drf_core.model.head import DAMAGED_PER_UNDISRUPTED
from drf_core.model.modeling_drf import DRFModel
from drf_core.training.batches import encode_batch
from schemas.annotations import MODALITIES
from schemas.errors import UsageError


class TrainingError(UsageError):
    """Posts or settings that nothing can be trained on or with."""


def push_to_queues(model: DRFModel, batch: PickedFeatures, index: Tensor) -> None:
    """Undisrupted pairs to the paired queue, damaged modalities to theirs."""
    pairs = batch.present.all(1) & ~batch.damaged.any(1)
    raw = {"text": batch.text, "image": batch.image}
    index = index.to(batch.present.device)
    if bool(pairs.any()):
        rows = {}
        for column, m in enumerate(MODALITIES):
            features = raw[m]
            assert features is not None
            rows[m] = features[pairs[batch.present[:, column]]]
        model.undisrupted_queue.push(rows, index[pairs])
    for column, m in enumerate(MODALITIES):
        chosen, features = batch.damaged[:, column], raw[m]
        if features is not None and bool(chosen.any()):
            picked = features[chosen[batch.present[:, column]]]
            model.disrupted_queues[m].push({m: picked}, index[chosen])


@torch.no_grad()
def fill_queues(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: Mapping[str, FeatureViews],
    kinds: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
) -> None:
    """Fill all queues with the corpus as the model encodes it now; kinds of damage per modality.

    Raises TrainingError for a corpus with fewer than 2 posts that have both modalities.
    """
    model.eval()
    # Rows of another time, encoded with other weights, do not belong to this distribution.
    for queue in (model.undisrupted_queue, *model.disrupted_queues.values()):
        queue.clear()
    both = (corpus.text_present & corpus.image_present).nonzero().flatten()
    too_few = TrainingError("--posts: training needs posts that have both a text and an image")
    if len(both) < 2:
        raise too_few
    chosen = both[torch.from_numpy(rng.permutation(len(both)))][: model.config.queue_length]
    for rows in chosen.split(128):
        whole = [Disruption()] * len(rows)
        push_to_queues(model, encode_batch(model, corpus, views, rows, whole, rng), rows)
        for turn in range(max(DAMAGED_PER_UNDISRUPTED.values())):
            damages = [
                Disruption(
                    **{
                        m: kinds[m][int(rng.integers(len(kinds[m])))] if turn < turns else DISCARD
                        for m, turns in DAMAGED_PER_UNDISRUPTED.items()
                    }
                )
                for _ in range(len(rows))
            ]
            push_to_queues(model, encode_batch(model, corpus, views, rows, damages, rng), rows)
    # Whether an image decodes is known only now.
    if model.undisrupted_queue.filled < 2:
        raise too_few


def set_reference(
    model: DRFModel, views: Mapping[str, FeatureViews], option: str = "--validation"
) -> None:
    """Rank qualities among these held-out posts, as they came.

    Raises TrainingError, naming the option that gave them, where none has both modalities.
    """
    text, image = views["text"], views["image"]
    present = torch.stack([text.present[:, 0], image.present[:, 0]], 1)
    if not bool(present.all(1).any()):
        raise TrainingError(f"{option}: needs posts that have both a text and an image")
    rank = present.long().cumsum(0) - 1
    model.set_reference(
        text.features[present[:, 0], 0].float().to(model.device),
        image.features[present[:, 1], 0].float().to(model.device),
        rank[present.all(1)].to(model.device),
    )


def fit_temperature(model: DRFModel, views: dict[str, FeatureViews], labels: Tensor) -> None:
    """Scale the logits so that confidence matches accuracy on held-out posts, clean and not."""
    model.temperature.fill_(1.0)
    known = labels >= 0
    logs = [
        torch.from_numpy(outcome.probabilities).clamp_min(1e-9).log()[known]
        for outcome in outcomes(model, views, modality_fixed_cells(len(labels)))
    ]
    candidates = torch.linspace(0.5, 3.0, 51)
    losses = [
        sum(float(nn.functional.cross_entropy(log / t, labels[known])) for log in logs)
        for t in candidates
    ]
    model.temperature.fill_(float(candidates[int(np.argmin(losses))]))
