"""OpenVINO is used without reporting to anybody, and computes batches beside each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drf_core.runtimes.openvino_library import compiled, load_openvino


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


def test_batches_of_all_sizes_come_back_in_their_order_more_than_there_are_threads() -> None:
    double = compiled(_doubling(), "f32", 2)
    batches = [np.full((n % 7 + 1, 3), n, np.float32) for n in range(40)]
    for given in (batches, batches[::-1], batches[:1], []):
        found = double([(batch,) for batch in given])
        assert [len(outputs) for outputs in found] == [1] * len(given)
        for batch, (doubled,) in zip(given, found, strict=True):
            assert np.array_equal(doubled, 2 * batch)


def test_a_batch_that_fails_is_told_and_takes_nothing_from_the_next_ones() -> None:
    double = compiled(_doubling(), "f32", 2)
    good = np.ones((4, 3), np.float32)
    for place in range(3):
        batches = [good, good, good]
        batches[place] = np.ones((2, 5), np.float32)
        with pytest.raises(RuntimeError):
            double([(batch,) for batch in batches])
        assert all(np.array_equal(one, 2 * good) for (one,) in double([(good,)] * 5))


def _doubling() -> object:
    class Double(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return 2 * given

    graph = load_openvino().convert_model(Double(), example_input=torch.zeros(2, 3))
    graph.reshape([-1, 3])
    return graph


def test_an_openvino_without_a_limit_for_its_records_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, asked = load_openvino().Core, []

    class Refusing:
        def compile_model(self, graph: Any, device: str, hints: dict[str, Any]) -> Any:
            asked.append("CPU_RUNTIME_CACHE_CAPACITY" in hints)
            if asked[-1]:
                raise RuntimeError("NotFound: Unsupported property")
            return core().compile_model(graph, device, hints)

    graph = load_openvino().convert_model(torch.nn.ReLU(), example_input=torch.zeros(2, 3))
    monkeypatch.setattr(load_openvino(), "Core", Refusing)
    [[found]] = compiled(graph, "f32", 1)([[np.array([[-1.0, 2.0, 3.0]], np.float32)]])
    assert found.tolist() == [[0.0, 2.0, 3.0]]
    assert asked == [True, False]
