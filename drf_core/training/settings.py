"""How a DRF model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import NonNegativeFloat, PositiveInt

from drf_core.corpus.disruption import (
    IMAGE_DAMAGES,
    TEXT_DAMAGES,
    TRAINED_IMAGE_KINDS,
    TRAINED_TEXT_KINDS,
)
from schemas.errors import UsageError

# What is told figures by name, and the epoch or step (from 1) that they are of.
Track = Callable[[Mapping[str, float], int], None]


class TrainingError(UsageError):
    """Posts or settings that nothing can be trained on or with."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; learning rates at the peak of a cosine, weights of the loss terms.

    ema_decay: of the averaged model, which is evaluated, kept, and the teacher of the
    disrupted student. choose_epoch: keep the epoch that validates best, not the last; then
    patience: epochs without improvement before stopping.
    views_per_kind: how often each post is damaged in each kind where an encoder is frozen and
    its features are made once.
    """

    epochs: PositiveInt = 8
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 1e-3
    encoder_learning_rate: NonNegativeFloat = 3e-5
    weight_decay: NonNegativeFloat = 0.05
    ema_decay: NonNegativeFloat = 0.99
    distillation_weight: NonNegativeFloat = 0.5
    unimodal_weight: NonNegativeFloat = 0.3
    sample_weight: NonNegativeFloat = 0.3
    distribution_weight: NonNegativeFloat = 0.1
    disrupted_share: NonNegativeFloat = 0.5
    train_text_encoder: bool = True
    train_image_encoder: bool = False
    views_per_kind: PositiveInt = 1
    choose_epoch: bool = True
    patience: PositiveInt = 3
    seed: int = 0
    text_kinds: list[str] = field(default_factory=lambda: list(TRAINED_TEXT_KINDS))
    image_kinds: list[str] = field(default_factory=lambda: list(TRAINED_IMAGE_KINDS))

    def __post_init__(self) -> None:
        """Raise TrainingError for a kind of damage that there is not."""
        for kinds, known in (("text_kinds", TEXT_DAMAGES), ("image_kinds", IMAGE_DAMAGES)):
            given = getattr(self, kinds)
            wrong = [kind for kind in given if kind not in known]
            if wrong or not given:
                raise TrainingError(
                    f"training.{kinds}: {wrong[0] if wrong else 'an empty list'!r} is not among "
                    f"{', '.join(known)}"
                )
