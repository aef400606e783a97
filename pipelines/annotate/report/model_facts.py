"""What a report must know of a checkpoint beside its revision; read without importing torch."""

from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError, safe_open

from schemas.annotations import MODALITIES

# Cards name the posts that a figure was measured on: "450 posts, clean".
_POSTS = re.compile(r"([\d,]+) posts")


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a checkpoint, as its configuration and its card give them.

    reference_posts: that qualities are ranked among. known: whether the checkpoint says so, else
    it is the length of its table of reference scores. reference_files: source files of those
    posts. adapted: what `drf adapt` says of it. accuracy: on undisrupted posts, of its card;
    accuracy_posts: how many, accuracy_on: which. All plain, so that they travel with the job.
    """

    reference_posts: int = 512
    reference_known: bool = False
    reference_files: tuple[str, ...] = field(default=())
    adapted: dict[str, Any] | None = None
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
    posts = _reference_posts(folder)
    return ModelFacts(
        reference_posts=posts or config.get("reference_length") or 512,
        reference_known=bool(posts),
        reference_files=tuple(config.get("reference_files") or ()),
        adapted=config.get("adapted"),
        **_card_figures(os.path.join(folder, "README.md")),
    )


def _reference_posts(folder: str) -> int | None:
    """Posts in the references of both modalities, the smaller number; None where it is unknown.

    The band is not narrower than either allows.
    """
    found = []
    for path in glob.glob(os.path.join(glob.escape(folder), "*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                names = {f"quality.{m}.reference.posts" for m in MODALITIES} & {*weights.keys()}
                found += [int(weights.get_tensor(name)) for name in names]
        except (OSError, SafetensorError):
            return None
    return min((posts for posts in found if posts), default=None)


def _card_figures(path: str) -> dict[str, Any]:
    """Accuracy as the card's metadata (`model-index`) has it."""
    from huggingface_hub import ModelCard

    try:
        results = ModelCard.load(path).data.eval_results or []
    except Exception:
        # A card is text that anyone may edit; a report does without.
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
