"""The model card that a training writes into its checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from drf_core.model.modeling_drf import DRFModel
from drf_core.training.building import SMALL
from drf_core.training.model_card import (
    CardFacts,
    Provenance,
    common_licence,
    is_hub_id,
    licence_of,
    write_card,
)
from pipelines.console.command_line import shown
from pipelines.train.config import TrainConfig


def write_training_card(
    args: argparse.Namespace,
    command: str,
    config: TrainConfig,
    output: Path,
    model: DRFModel,
    figures: dict[str, dict[str, float]],
    matched: dict[str, dict[str, float]],
    posts: tuple[int, int, int],
) -> None:
    """Write the model card of a training into its checkpoint.

    command: what trained it. figures, matched: by cell, under the checkpoint's prior and under the
    posts' own. posts: trained on, judged on, and how many of the latter were trained on.
    """
    encoders = [name for name in (args.text_encoder, args.image_encoder) if name != SMALL]
    sources = dict.fromkeys([*encoders, *([args.teacher] if args.teacher else [])])
    licences = {shown(name): licence_of(name) for name in sources}
    card = config.card
    facts = CardFacts(
        name=card.name or output.resolve().name,
        design=model.config.design,
        labels=model.config.labels,
        text_encoder=shown(args.text_encoder),
        image_encoder=shown(args.image_encoder),
        training_posts=posts[0],
        judged_posts=posts[1],
        judged_on_validation=not args.test,
        chose_epoch=config.training.choose_epoch,
        known_posts=posts[2],
        parameters=sum(p.numel() for p in model.parameters()),
        command=command,
        reference="the posts given with --reference" if args.reference else "the validation posts",
        trained_kinds=model.config.trained_kinds or {},
        prior=model.config.prior,
        notes=card.notes,
        provenance=Provenance(
            licence=card.license or common_licence(licences.values()),
            base_models=tuple(card.base_model or filter(is_hub_id, encoders)),
            datasets=tuple(card.datasets),
            languages=tuple(card.language),
        ),
        licences=licences,
    )
    (output / "README.md").write_text(write_card(facts, figures, matched), encoding="utf-8")
