"""Loading a checkpoint's weights: all of them, or all but the encoders'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig

from drf_core.checkpoint import CheckpointError
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.head import DRFHead

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel

_ENCODERS = ("text_encoder.", "image_encoder.")


def load_model(folder: str) -> DRFModel:
    """The model in folder, every weight of it; transformers would make up what is missing.

    Raises CheckpointError for weights that are damaged, missing or do not fit.
    """
    from drf_core.model.modeling_drf import DRFModel

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


def load_head(folder: str) -> DRFHead:
    """The model in folder without its encoders: what serves beside compiled ones.

    Raises CheckpointError for weights that are damaged, missing or do not fit.
    """
    values = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    for part in ("text_config", "vision_config"):
        # The encoders' own classes import their models, which nothing here needs.
        values[part] = PretrainedConfig(**values[part])
    head = DRFHead(DRFConfig.from_dict(values))
    state = {}
    try:
        for path in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    if not name.startswith(_ENCODERS):
                        state[name] = weights.get_tensor(name)
        missing, _ = head.load_state_dict(state, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    _check_nothing_missing(folder, missing)
    return head.eval()


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
