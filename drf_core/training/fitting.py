"""What is fitted to posts rather than learned: queues, reference of qualities, temperature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from drf_core.corpus.disruption import DISCARD, Disruption
from drf_core.corpus.posts import TrainingCorpus
from drf_core.corpus.views import FeatureViews, PickedFeatures, pick_features
from drf_core.evaluation.protocol import damage_cells, modality_fixed_cells
from drf_core.model.head import DAMAGED_PER_UNDISRUPTED, PRESENCE, FeatureModel, presence
from drf_core.model.modeling_drf import DRFModel
from drf_core.training.batches import encode_batch
from drf_core.training.settings import TrainingError
from schemas.annotations import MODALITIES


def push_to_queues(model: DRFModel, batch: PickedFeatures, index: Tensor) -> None:
    """Undisrupted pairs to the paired queue, what is damaged and what is not to theirs."""
    push_undisrupted(model, batch, index)
    push_damaged(model, batch, index)


def push_undisrupted(model: DRFModel, batch: PickedFeatures, index: Tensor) -> None:
    """What is as it came: to the queues of either modality, pairs also to the paired one."""
    index = index.to(batch.present.device)
    pairs = batch.present.all(1) & ~batch.damaged.any(1)
    if bool(pairs.any()):
        rows = {}
        for column, m in enumerate(MODALITIES):
            features = batch.text if m == "text" else batch.image
            assert features is not None
            rows[m] = features[pairs[batch.present[:, column]]]
        model.paired_queue.push(rows, index[pairs])
    _push(model.undisrupted_queues, batch, batch.present & ~batch.damaged, index)


def push_damaged(model: DRFModel, batch: PickedFeatures, index: Tensor) -> None:
    """What is damaged, to the queues of either modality."""
    _push(model.disrupted_queues, batch, batch.damaged, index.to(batch.present.device))


def _push(
    queues: torch.nn.ModuleDict, batch: PickedFeatures, chosen: Tensor, index: Tensor
) -> None:
    """chosen (batch, 2): which modalities of which posts."""
    for column, m in enumerate(MODALITIES):
        features, of_modality = batch.text if m == "text" else batch.image, chosen[:, column]
        if features is not None and bool(of_modality.any()):
            rows = features[of_modality[batch.present[:, column]]]
            queues[m].push({m: rows}, index[of_modality])


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
    for queue in model.queues():
        queue.clear()
    both = (corpus.text_present & corpus.image_present).nonzero().flatten()
    too_few = TrainingError("--posts: training needs posts that have both a text and an image")
    if len(both) < 2:
        raise too_few
    single = (corpus.text_present ^ corpus.image_present).nonzero().flatten()
    for rows, turns in (
        *((rows, 1) for rows in _drawn(single, model.config.queue_length, rng).split(128)),
        *(
            (rows, max(DAMAGED_PER_UNDISRUPTED.values()))
            for rows in _drawn(both, model.config.queue_length, rng).split(128)
        ),
    ):
        # Of no rows at all there is still one part, an empty one.
        if not len(rows):
            continue
        whole = [Disruption()] * len(rows)
        push_undisrupted(model, encode_batch(model, corpus, views, rows, whole, rng), rows)
        for turn in range(turns):
            damages = [
                Disruption(
                    **{
                        m: kinds[m][int(rng.integers(len(kinds[m])))]
                        if turn < of_modality
                        else DISCARD
                        for m, of_modality in DAMAGED_PER_UNDISRUPTED.items()
                    }
                )
                for _ in range(len(rows))
            ]
            # A text that its damage would leave with nothing stays as it came, as does one beside
            # an image that does not decode: in the queue of what is whole it is already.
            push_damaged(model, encode_batch(model, corpus, views, rows, damages, rng), rows)
    # Whether an image decodes is known only now.
    if model.paired_queue.filled < 2:
        raise too_few


def _drawn(rows: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    return rows[torch.from_numpy(rng.permutation(len(rows)))][:count]


def set_reference(
    model: FeatureModel, views: Mapping[str, FeatureViews], option: str = "--validation"
) -> None:
    """Rank qualities among these held-out posts, as they came.

    Raises TrainingError, naming the option that gave them, where none has both modalities.
    """
    if not bool(paired_posts(views).any()):
        raise TrainingError(f"{option}: needs posts that have both a text and an image")
    rank_among(model, views, paired_posts(views))


def paired_posts(views: Mapping[str, FeatureViews]) -> Tensor:
    """Which posts have both modalities, (posts,) bool."""
    return torch.stack([views[m].present[:, 0] for m in MODALITIES], 1).all(1)


def rank_among(model: FeatureModel, views: Mapping[str, FeatureViews], paired: Tensor) -> None:
    """Rank qualities among these posts, those of recovered features among the paired ones.

    paired (posts,) bool: of those that have both modalities, those that the paired queue does
    not hold: what is recovered from itself is recovered too well. None at all leave that reference
    as it was.
    """
    present = torch.stack([views[m].present[:, 0] for m in MODALITIES], 1)
    rank = present.long().cumsum(0) - 1
    text, image = (
        views[m].features[present[:, column], 0].float().to(model.device)
        for column, m in enumerate(MODALITIES)
    )
    model.set_reference(text, image, rank[paired].to(model.device))


@torch.no_grad()
def fit_kinds(
    model: DRFModel,
    corpus: TrainingCorpus,
    views: Mapping[str, FeatureViews],
    kinds: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
    posts: int = 256,
) -> None:
    """Learn to name the kinds of damage, from that many posts damaged in each of them."""
    model.eval()
    for column, m in enumerate(MODALITIES):
        has = corpus.text_present if m == "text" else corpus.image_present
        damaged = []
        for kind in kinds[m]:
            rows = _drawn(has.nonzero().flatten(), posts, rng)
            other = MODALITIES[1 - column]
            wanted = [Disruption(**{m: kind, other: DISCARD})] * len(rows)
            batch = encode_batch(model, corpus, views, rows, wanted, rng)
            features = batch.text if m == "text" else batch.image
            assert features is not None
            chosen = batch.damaged[batch.present[:, column], column]
            damaged.append(model.standardise[m](features[chosen]))
        if damaged:
            model.quality[m].fit_kinds(damaged)


@torch.no_grad()
def fit_confidence(
    model: DRFModel, views: dict[str, FeatureViews], labels: Tensor, prior: Tensor
) -> None:
    """Fit trust and temperatures to held-out posts, clean and disrupted, by their log loss.

    prior (labels,): shares of the labels among them, which the loss adds as training does.
    """
    known = labels >= 0
    cells = [
        *modality_fixed_cells(len(labels)),
        *damage_cells(len(labels), {m: views[m].kinds for m in MODALITIES}),
    ]
    known, labels = known.to(model.device), labels.to(model.device)
    offset = (prior * len(prior)).log().to(model.device)
    model.eval()
    seen = []
    for cell in cells:
        picked = pick_features(views, torch.arange(len(known)), cell.disruptions)
        text, image = (
            None if raw is None else raw.to(model.device) for raw in (picked.text, picked.image)
        )
        present = picked.present.to(model.device)
        seen.append((model.forward_features(text, image, present), present))

    truth = labels[known].repeat(len(seen))
    has = torch.cat([presence(present)[known] for _, present in seen])

    def loss() -> float:
        model.temperature.fill_(1.0)
        logits = torch.cat([model.fuse(output, present)[0][known] for output, present in seen])
        total = 0.0
        for number in range(len(PRESENCE)):
            rows = has == number
            if not bool(rows.any()):
                continue
            losses = [
                float(cross_entropy(logits[rows] / t + offset, truth[rows], reduction="sum"))
                for t in _TEMPERATURES
            ]
            model.temperature[number] = _TEMPERATURES[int(np.argmin(losses))]
            total += min(losses)
        return total

    if model.design.quality_weights and model.design.fusion == "evidence":
        _descend(model.trust, loss)
    loss()


_TEMPERATURES = torch.linspace(0.5, 4.0, 71)
_TRUSTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.97)


def _descend(trust: Tensor, loss: Callable[[], float]) -> None:
    """Try every level at every quality in turn, those that matter most last; keep the best.

    Trust may not fall as quality rises.
    """
    for column in range(trust.shape[0]):
        for number in range(trust.shape[1]):
            kept = float(trust[column, number])
            scores = {}
            for level in {*_TRUSTS, kept}:
                trust[column, number] = level
                if bool((trust[column].diff() >= -1e-6).all()):
                    scores[level] = loss()
            trust[column, number] = min(scores, key=lambda level: (scores[level], level))
