"""OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from types import ModuleType


def load_openvino() -> ModuleType:
    """Import openvino so that it reports to nobody.

    Left to itself it tells a web service of every import and conversion, without asking and
    from a child process of its own; where its telemetry package is absent, it uses a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
