"""Loading a checkpoint's weights: all of them, or all but the encoders'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig

from drf_core.checkpoint import CheckpointError
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.modeling_drf import DRFModel

_ENCODERS = ("text_encoder.", "image_encoder.")


class EncoderElsewhere(nn.Module):
    """Stands where an encoder was that another runtime runs; holds no weights."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, *_: Any, **__: Any) -> None:
        """Raise RuntimeError."""
        raise RuntimeError("this model's encoders were handed over to another runtime")


def load_model(folder: str) -> DRFModel:
    """The model in folder, every weight of it; transformers would make up what is missing.

    Raises CheckpointError for weights that are damaged, missing or do not fit.
    """
    try:
        model, report = DRFModel.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    _check_nothing_missing(folder, report["missing_keys"])
    return model


def load_without_encoders(folder: str) -> DRFModel:
    """The model in folder with nothing to encode with: what serves beside compiled encoders.

    Raises CheckpointError for weights that are damaged, missing or do not fit.
    """
    config = DRFConfig.from_pretrained(folder, local_files_only=True)
    model = DRFModel(
        config, EncoderElsewhere(config.text_config), EncoderElsewhere(config.vision_config)
    )
    state = {}
    try:
        for path in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    if not name.startswith(_ENCODERS):
                        state[name] = weights.get_tensor(name)
        missing, _ = model.load_state_dict(state, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    _check_nothing_missing(folder, missing)
    return model.eval()


def drop_encoders(model: DRFModel) -> None:
    """Leave a model without its encoders' weights."""
    model.text_encoder = EncoderElsewhere(model.config.text_config)
    model.image_encoder = EncoderElsewhere(model.config.vision_config)


def _damaged(folder: str, error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [""])[0]
    return CheckpointError(
        f"{folder}: its weights cannot be loaded ({type(error).__name__}: {first}); "
        "copy the checkpoint again"
    )


def _check_nothing_missing(folder: str, names: Any) -> None:
    missing = sorted(names)
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, such as {missing[0]}; "
            "copy the checkpoint again, or train it again if an earlier version wrote it"
        )
