"""Loading a checkpoint's weights."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from drf_core.checkpoint import CheckpointError
from drf_core.model.modeling_drf import DRFModel


def load_model(folder: str) -> DRFModel:
    """The model in folder, every weight of it; transformers would make up what is missing.

    Raises CheckpointError for weights that are damaged, missing or do not fit.
    """
    # What does not fit is told here, in one sentence.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        model, report = DRFModel.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    finally:
        logging.set_verbosity(verbosity)
    _check_all_there(folder, [*report["missing_keys"], *report["mismatched_keys"]])
    return model


def _damaged(folder: str, error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [""])[0]
    return CheckpointError(
        f"{folder}: its weights cannot be loaded ({type(error).__name__}: {first}); "
        "copy the checkpoint again"
    )


def _check_all_there(folder: str, wanting: list[Any]) -> None:
    # Of another size: its name, and both sizes.
    names = sorted(one if isinstance(one, str) else one[0] for one in wanting)
    if names:
        raise CheckpointError(
            f"{folder}: {len(names)} weights are missing or of another size, such as {names[0]}; "
            "copy the checkpoint again, or train it again if an earlier version wrote it"
        )
