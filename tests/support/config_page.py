"""Writes pipelines/train/CONFIG.md from the settings: `python -m tests.support.config_page`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from drf_core.model.configuration_drf import DRFConfig
from drf_core.training.building import small_image_encoder, small_text_encoder
from drf_core.training.distillation import DistillationSettings
from drf_core.training.settings import TrainingSettings
from drf_core.training.shrinking import shrink_images, shrink_text_encoder
from drf_core.training.text_expert import TaskSettings, TextExpertSettings
from pipelines.train.config import CardConfig, known_names

PAGE = Path(__file__).parents[2] / "pipelines" / "train" / "CONFIG.md"

_HEAD = """# The configuration file of `drf train`

`drf train --config FILE`: a JSON object of the sections below, each an object of values; what is
not given has its default. An unknown name is refused with those that there are. Examples:
[recipes](recipes). This page is written by `python -m tests.support.config_page`.
"""

# By section: what it configures, and what says so.
_SECTIONS: dict[str, tuple[str, Any]] = {
    "training": ("How the fusion is trained.", TrainingSettings),
    "model": ("The model's shape.", DRFConfig),
    "small.text": ("For `--text-encoder small`.", small_text_encoder),
    "small.image": ("For `--image-encoder small`.", small_image_encoder),
    "shrink.text": ("Of a pre-trained text encoder.", shrink_text_encoder),
    "shrink.image": ("Of a pre-trained image encoder.", shrink_images),
    "text_expert": ("How the text encoder is tuned before.", TextExpertSettings),
    "text_expert.tasks.NAME": (
        "Of `sentiment` and of each `--auxiliary NAME=PATH`.\n`text_adaptation` is a section like "
        "`text_expert`, for what follows it; its tasks are `images` and `others`.",
        TaskSettings,
    ),
    "distillation": ("For `--teacher` and `--image-teacher`.", DistillationSettings),
    "card": ("The model card.", CardConfig),
}


def config_page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(name, *of) for name, of in _SECTIONS.items())])


def _section(name: str, about: str, made: Any) -> str:
    said = inspect.cleandoc(made.__doc__ or "").split("\n\nRaises")[0]
    rows = [
        f"| `{option}` | {parameter.annotation} | {_default(made, parameter)} |".replace(
            " | None", ""
        )
        for option, parameter in inspect.signature(made).parameters.items()
        if option in known_names(made)
    ]
    table = "\n".join(["| value | type | default |", "|---|---|---|", *rows])
    return f"## {name}\n\n{about}\n\n```text\n{said}\n```\n\n{table}\n"


def _default(made: Any, parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "to be given"
    # What a dataclass makes anew each time, its signature does not show.
    shown = getattr(made(), parameter.name) if dataclasses.is_dataclass(made) else parameter.default
    return "none" if shown in (None, "", (), {}) else f"`{json.dumps(shown)}`"


if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")
