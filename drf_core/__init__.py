"""The method: DRF model, processor, disruption, training. Knows no Beam and no buckets.

Attributes load on first use, so that reading a checkpoint's labels costs no torch import. After
`import drf_core`, transformers' AutoConfig, AutoModel and AutoProcessor load DRF checkpoints.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import wrapt

__version__ = "0.1.0"

_EXPORTS = {
    "Annotator": "annotator",
    "DRFConfig": "model.configuration_drf",
    "DRFModel": "model.modeling_drf",
    "DRFOutput": "model.modeling_drf",
    "DRFProcessor": "model.processing_drf",
}
__all__ = ["Annotator", "DRFConfig", "DRFModel", "DRFOutput", "DRFProcessor", "__version__"]

# Each registers what it defines with the Auto class beside it.
_AUTO_CLASSES = {
    "configuration_auto": "configuration_drf",
    "modeling_auto": "modeling_drf",
    "processing_auto": "processing_drf",
}


def _register_when_imported(auto: str, ours: str) -> None:
    # Not now: whoever does not use transformers shall not wait for it.
    @wrapt.when_imported(f"transformers.models.auto.{auto}")
    def register(_: Any) -> None:
        import_module(f"drf_core.model.{ours}")


for _auto, _ours in _AUTO_CLASSES.items():
    _register_when_imported(_auto, _ours)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"drf_core.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'drf_core' has no attribute {name!r}")
