"""Writing a checkpoint so that whoever may enter its folder can read it."""

from __future__ import annotations

from pathlib import Path

import torch

from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor


def save_checkpoint(
    folder: Path, model: DRFModel, processor: DRFProcessor, half_precision: bool = False
) -> None:
    """Write model, tokenizer and image processor into a folder that is there.

    half_precision: of all that is large. The folders that the encoders were read from are not told:
    a checkpoint is published, and they name its maker's machine.
    """
    for part in (model.config.text_config, model.config.vision_config):
        part.name_or_path = ""
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    if half_precision:
        state = {
            name: value.half() if value.dtype == torch.float32 and value.numel() > 4096 else value
            for name, value in state.items()
        }
    model.save_pretrained(folder, state_dict=state)
    for path in [*folder.glob("*.safetensors"), *map(Path, processor.save_pretrained(str(folder)))]:
        # safetensors writes for its own user alone, but workers run as others.
        path.chmod(0o644)
