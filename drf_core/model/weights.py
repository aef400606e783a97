"""Loading a checkpoint's weights."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from drf_core.checkpoint import CheckpointError
from drf_core.model.modeling_drf import DRFModel


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
