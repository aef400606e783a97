"""The method: DRF model, processor, disruption, training. Knows no Beam and no buckets.

Attributes load on first use, so that reading a checkpoint's labels costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Annotator": "annotator",
    "DRFConfig": "model.configuration_drf",
    "DRFModel": "model.modeling_drf",
    "DRFOutput": "model.modeling_drf",
    "DRFProcessor": "model.processing_drf",
}
__all__ = ["Annotator", "DRFConfig", "DRFModel", "DRFOutput", "DRFProcessor", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"drf_core.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'drf_core' has no attribute {name!r}")
