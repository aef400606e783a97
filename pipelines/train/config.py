"""The configuration file of `drf train`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from drf_core.model.configuration_drf import DRFConfig
from drf_core.training.building import small_image_encoder, small_text_encoder
from drf_core.training.distillation import DistillationSettings
from drf_core.training.settings import TrainingSettings
from drf_core.training.shrinking import shrink_images, shrink_text_encoder
from drf_core.training.text_expert import TextExpertSettings
from schemas.errors import UsageError
from schemas.read_record import read_record

# What the encoders decide, and no configuration.
_DECIDED = ("self", "kwargs", "text_config", "vision_config", "text_feature_size",
            "image_feature_size", "encoder", "tokenizer", "texts", "trained_kinds")  # fmt: skip


@dataclass(frozen=True)
class CardConfig:
    """What the model card says, and in which precision large weights are stored.

    license: of the checkpoint, where the encoders' cards do not settle it. base_model: hub ids
    of the encoders, where they were given as folders. datasets, language: see `Provenance`.
    """

    name: str = ""
    notes: str = ""
    license: str = ""
    base_model: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    half_precision_weights: bool = False


_Section = TypeVar(
    "_Section", TrainingSettings, DistillationSettings, CardConfig, TextExpertSettings
)


@dataclass(frozen=True)
class TrainConfig:
    """The sections of a configuration file.

    model: values of DRFConfig. small: arguments of small_text_encoder and
    small_image_encoder, under "text" and "image". shrink: those of shrink_text_encoder and
    shrink_images. text_expert: how the
    text encoder is tuned before the fusion, where it is; text_adaptation: how it is tuned after
    that on the posts the fusion is trained on, tasks "images" and "others" (those without).
    """

    model: dict[str, Any] = field(default_factory=dict)
    small: dict[str, dict[str, Any]] = field(default_factory=dict)
    shrink: dict[str, dict[str, int]] = field(default_factory=dict)
    text_expert: TextExpertSettings | None = None
    text_adaptation: TextExpertSettings | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    card: CardConfig = field(default_factory=CardConfig)


def train_config(path: str, given: Mapping[str, Any], seed: int) -> TrainConfig:
    """What the file at path gives; raises UsageError for whatever is not known.

    seed: of training and distillation, where the file names none.
    """
    where = f"--config {path}"
    _check_names(where, "", given, [part.name for part in dataclasses.fields(TrainConfig)])
    for section, values in given.items():
        if not isinstance(values, dict):
            raise UsageError(f"{where}: section {section!r} is not an object")
    of_encoders: dict[str, dict[str, Callable[..., object]]] = {
        "small": {"text": small_text_encoder, "image": small_image_encoder},
        "shrink": {"text": shrink_text_encoder, "image": shrink_images},
    }
    for section, makers in of_encoders.items():
        _check_names(where, f"{section}.", given.get(section, {}), list(makers))
        for name, made in makers.items():
            values = given.get(section, {}).get(name, {})
            _check_names(where, f"{section}.{name}.", values, known_names(made))
    _check_names(where, "model.", given.get("model", {}), known_names(DRFConfig))

    def settings(name: str, kind: type[_Section]) -> _Section:
        values = given.get(name, {})
        _check_names(where, f"{name}.", values, known_names(kind))
        try:
            return read_record(kind, {"seed": seed} | values, written=True)
        except ValueError as error:
            raise UsageError(f"{where}: {name}.{error}") from error

    return TrainConfig(
        given.get("model", {}),
        given.get("small", {}),
        given.get("shrink", {}),
        settings("text_expert", TextExpertSettings) if "text_expert" in given else None,
        settings("text_adaptation", TextExpertSettings) if "text_adaptation" in given else None,
        settings("training", TrainingSettings),
        settings("distillation", DistillationSettings),
        settings("card", CardConfig),
    )


def _check_names(where: str, prefix: str, given: Mapping[str, Any], known: list[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(
            f"{where}: unknown value {prefix}{unknown[0]}; there are {', '.join(sorted(known))}"
        )


def known_names(made: Callable[..., object]) -> list[str]:
    """The values that a section may have, by what is made of it: a class or function."""
    return [name for name in inspect.signature(made).parameters if name not in _DECIDED]
