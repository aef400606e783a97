"""What a report must know of a checkpoint beside its revision; read without importing torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.storage.redaction import reason_of

# Cards name the posts that a figure was measured on: "450 posts, clean".
_POSTS = re.compile(r"([\d,]+) posts")


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a checkpoint, as its configuration and its card give them.

    reference_posts: that qualities are ranked among. known: whether the checkpoint says so, else
    it is the length of its table of reference scores. reference_files: source files of those
    posts. accuracy: on undisrupted posts, of its card; accuracy_posts: how many, accuracy_on:
    which. All plain, so that they travel with the job.
    """

    reference_posts: int = 512
    reference_known: bool = False
    reference_files: tuple[str, ...] = field(default=())
    accuracy: float | None = None
    accuracy_posts: int | None = None
    accuracy_on: str | None = None


def read_model_facts(folder: str) -> ModelFacts:
    """Return the facts of a checkpoint's folder; whatever it does not say is left open."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        config = {}
    posts = config.get("reference_posts")
    if isinstance(posts, Mapping):
        # Of two modalities the smaller number: the band is not narrower than either allows.
        posts = min((n for n in posts.values() if n), default=None)
    return ModelFacts(
        reference_posts=int(posts or config.get("reference_length") or 512),
        reference_known=bool(posts),
        reference_files=tuple(config.get("reference_files") or ()),
        **_card_figures(os.path.join(folder, "README.md")),
    )


def _card_figures(path: str) -> dict[str, Any]:
    """Accuracy as the card's metadata (`model-index`) has it."""
    from huggingface_hub import ModelCard

    try:
        results = ModelCard.load(path).data.eval_results or []
    except Exception as error:
        # A card is text that anyone may edit; a report does without.
        reason_of(error)
        return {}
    for result in results:
        if result.metric_type == "accuracy":
            posts = _POSTS.search(result.dataset_name)
            return {
                "accuracy": float(result.metric_value),
                "accuracy_posts": int(posts[1].replace(",", "")) if posts else None,
                "accuracy_on": result.dataset_name,
            }
    return {}
