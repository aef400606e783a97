"""OpenVINO is used without reporting to anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_converting_a_model_starts_no_process_and_opens_no_connection() -> None:
    program = (
        "import socket, multiprocessing, torch\n"
        "def refuse(*args, **kwargs): raise SystemExit('reported')\n"
        "socket.socket.connect = refuse\n"
        "multiprocessing.Process.start = refuse\n"
        "from drf_core.runtimes.openvino_library import load_openvino\n"
        "openvino = load_openvino()\n"
        "made = openvino.convert_model(torch.nn.Linear(3, 2), example_input=torch.zeros(1, 3))\n"
        "print(openvino.Core().compile_model(made, 'CPU')(torch.ones(1, 3).numpy())[0].shape)\n"
        "from openvino.tools.ovc import convert_impl\n"
        "print(convert_impl.tm.__name__)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:2] == ["(1, 2)", "openvino.tools.ovc.telemetry_stub"]
