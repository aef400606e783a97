"""Runtimes: what is chosen, what is refused, what is cached, and that features stay the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from drf_core.annotator import Annotator, PreparedPost
from drf_core.model.weights import load_model
from drf_core.runtimes import choice, openvino_graphs
from drf_core.runtimes.choice import DeviceError, choose_runtime
from drf_core.runtimes.graph_cache import cached_graphs
from drf_core.runtimes.interface import UnservableError
from drf_core.runtimes.openvino_graphs import text_graph
from drf_core.runtimes.openvino_library import load_openvino
from drf_core.runtimes.precision import cast_weights
from drf_core.runtimes.text_batches import text_batches

WORDS = ("good", "sunny day", "rain and bad days, " * 9, "so", "a bad rainy day " * 3)


@pytest.fixture(scope="module")
def torch_annotator(tiny_checkpoint: Path) -> Annotator:
    return Annotator.from_pretrained(str(tiny_checkpoint), device="cpu", threads=1)


def openvino(folder: Path, cache: Path | None = None, runtime: str = "openvino-f32") -> Annotator:
    return Annotator.from_pretrained(
        str(folder), "cpu", 1, runtime, None if cache is None else str(cache)
    )


def tokens(annotator: Annotator) -> list[list[int]]:
    return [annotator.prepare(text, None).token_ids or [] for text in WORDS]


def pixels(count: int = 20) -> list[np.ndarray]:
    made = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return list(made)


def posts(annotator: Annotator) -> list[PreparedPost]:
    texts, images = tokens(annotator), pixels(len(WORDS))
    both = [PreparedPost(t, i, None, None) for t, i in zip(texts, images, strict=True)]
    return [
        *both,
        PreparedPost(texts[0], None, None, "missing"),
        PreparedPost(None, images[0], "missing", None),
    ]


def test_texts_of_a_batch_are_about_equally_long_and_come_back_to_their_places() -> None:
    ids = [[1] * n for n in (9, 2, 8, 1, 30, 3)]
    batches = list(text_batches(ids, pad=0, texts=3, tokens=20))
    # Three texts; two, since three of nine tokens were 27; one that is too long for any company.
    assert [padded.shape for _, padded, _ in batches] == [(3, 3), (2, 9), (1, 30)]
    for rows, padded, mask in batches:
        for row, line, seen in zip(rows, padded, mask, strict=True):
            assert line[seen == 1].tolist() == ids[row]
            assert not line[seen == 0].any()


def test_weights_in_bf16_say_nearly_what_they_say_in_f32(tiny_checkpoint: Path) -> None:
    model = load_model(str(tiny_checkpoint)).eval()
    image = torch.randn(2, 3, 32, 32)
    ids = torch.ones(2, 5, dtype=torch.int64)
    with torch.no_grad():
        before = model.encode_text(ids, ids), model.encode_image(image)
        cast_weights(model.text_encoder)
        cast_weights(model.image_encoder)
        after = model.encode_text(ids, ids), model.encode_image(image.bfloat16())
    kept = {type(m) for m in model.image_encoder.modules() if _dtypes(m) == {torch.float32}}
    assert kept == {torch.nn.BatchNorm2d}
    assert _dtypes(model.text_encoder) == {torch.bfloat16}
    for plain, cast in zip(before, after, strict=True):
        assert cast.dtype == torch.float32
        assert 0 < (plain - cast).norm() < 0.02 * plain.norm()


def _dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {one.dtype for one in module.parameters()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_torch_gives_in_f32(
    torch_annotator: Annotator, tiny_checkpoint: Path
) -> None:
    on_gpu = Annotator.from_pretrained(str(tiny_checkpoint), device="cuda")
    ids = tokens(torch_annotator)
    for plain, found in (
        (torch_annotator.encode_texts(ids), on_gpu.encode_texts(ids)),
        (torch_annotator.encode_images(pixels()), on_gpu.encode_images(pixels())),
    ):
        assert np.allclose(plain, found, rtol=0.05, atol=0.05)


def test_openvino_gives_the_features_that_torch_gives(
    torch_annotator: Annotator, tiny_checkpoint: Path
) -> None:
    compiled = openvino(tiny_checkpoint)
    assert str(compiled.runtime) == "openvino f32 on cpu"
    assert str(torch_annotator.runtime) == "torch f32 on cpu"
    ids = tokens(torch_annotator)
    for plain, found in (
        (torch_annotator.encode_texts(ids), compiled.encode_texts(ids)),
        (torch_annotator.encode_images(pixels()), compiled.encode_images(pixels())),
    ):
        assert found.dtype == np.float32 and found.shape == plain.shape
        assert np.allclose(plain, found, rtol=1e-3, atol=1e-3)
        assert np.abs(plain[0] - plain[1]).max() > 1e-2


def test_a_converted_model_says_the_same(
    torch_annotator: Annotator, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = torch_annotator.predict(posts(torch_annotator))
    # Converted the first time, from the cache the second.
    for _ in range(2):
        compiled = openvino(tiny_checkpoint, tmp_path)
        for plain, found in zip(expected, compiled.predict(posts(compiled)), strict=True):
            assert found.label == plain.label
            assert found.probabilities == pytest.approx(plain.probabilities, abs=1e-3)
            assert found.image.quality == pytest.approx(plain.image.quality, abs=0.02)


def test_no_start_keeps_torch_or_transformers(
    torch_annotator: Annotator, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = torch_annotator.predict([torch_annotator.prepare(WORDS[1], None)])[0].label
    # The first converts, in a process of its own; the second finds what it left.
    for _ in range(2):
        label, runtime, kept = start(tiny_checkpoint, tmp_path)
        assert (label, runtime, kept) == (expected, "openvino f32 on cpu, None", "set()")


def test_a_start_converts_itself_where_that_process_dies(
    torch_annotator: Annotator, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = torch_annotator.predict([torch_annotator.prepare(WORDS[1], None)])[0].label
    dying = "openvino_model._CONVERT = 'os:abort'"
    label, runtime, kept = start(tiny_checkpoint, tmp_path, dying)
    assert (label, runtime) == (expected, "openvino f32 on cpu, None")
    assert "torch" in kept


def test_what_cannot_be_converted_in_another_process_runs_in_torch_and_says_why(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    spoilt = {n: w * float("nan") if "text_encoder" in n else w for n, w in weights.items()}
    save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
    not_here = "openvino_model._converted = None"
    _, runtime, _ = start(folder, tmp_path / "cache", not_here, runtime="auto")
    assert runtime.startswith("torch f32 on cpu, OpenVINO cannot convert the text encoder")


def start(folder: Path, cache: Path, first: str = "", runtime: str = "openvino-f32") -> list[str]:
    """What a fresh process says: a label, its runtime and note, and which heavy modules it has."""
    script = (
        "import sys\n"
        "from drf_core import Annotator\n"
        "from drf_core.runtimes import openvino_model\n"
        f"{first}\n"
        f"annotator = Annotator.from_pretrained({str(folder)!r}, 'cpu', 1, "
        f"{runtime!r}, {str(cache)!r})\n"
        f"print(annotator.predict([annotator.prepare({WORDS[1]!r}, None)])[0].label)\n"
        "print(annotator.runtime, annotator.runtime.note, sep=', ')\n"
        "print({'torch', 'transformers'} & sys.modules.keys())\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "no sums"])
def test_a_damaged_cache_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    made: list[int] = []

    def make() -> dict[str, object]:
        made.append(1)
        layer = nn.Linear(64, 64)
        return {"text": load_openvino().convert_model(layer, example_input=torch.ones(1, 64))}

    cached_graphs(tmp_path, "key", make)
    weights = tmp_path / "key" / "text.bin"
    data = bytearray(weights.read_bytes())
    if damage == "cut":
        weights.write_bytes(data[:-8])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    elif damage == "gone":
        weights.unlink()
    else:
        (tmp_path / "key" / "sums.json").write_text("{")
    for _ in range(2):
        assert set(cached_graphs(tmp_path, "key", make)) == {"text"}
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_cache_that_cannot_be_written_does_not_stop_a_start(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The command line, where a test ran it in this process, leaves the root logger at ERROR.
    caplog.set_level("WARNING", "drf_core.runtimes.graph_cache")
    (tmp_path / "file").write_text("")
    annotator = openvino(tiny_checkpoint, tmp_path / "file")
    assert annotator.predict(posts(annotator))
    assert "every start converts the encoders anew" in caplog.text


def test_bf16_is_chosen_where_it_is_native_and_refused_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native, precision in ((True, "bf16"), (False, "f32")):
        monkeypatch.setattr(choice, "_native_bf16", lambda native=native: native)
        assert choose_runtime("auto", "auto").precision == precision
    with pytest.raises(DeviceError, match="no bf16 arithmetic"):
        choose_runtime("openvino-bf16", "cpu")
    with pytest.raises(DeviceError, match="no usable GPU"):
        choose_runtime("auto", "cuda")
    with pytest.raises(DeviceError, match="OpenVINO runs on the CPU"):
        choose_runtime("openvino-f32", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice, "_may_have_gpu", lambda: True)
    assert str(choose_runtime("auto", "auto")) == "torch bf16 on cuda"
    assert str(choose_runtime("openvino-f32", "auto")) == "openvino f32 on cpu"


def test_an_encoder_that_openvino_cannot_convert_runs_in_torch_visibly_or_is_an_error(
    torch_annotator: Annotator, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stubborn(*_: object) -> None:
        raise UnservableError("OpenVINO cannot convert the text encoder (bert): no such op")

    monkeypatch.setattr(openvino_graphs, "text_graph", stubborn)
    with pytest.raises(DeviceError, match=r"openvino-f32: .*text encoder \(bert\).*torch"):
        openvino(tiny_checkpoint)
    monkeypatch.setattr(choice, "_native_bf16", lambda: False)
    annotator = openvino(tiny_checkpoint, runtime="auto")
    assert str(annotator.runtime) == "torch f32 on cpu"
    assert "cannot convert the text encoder" in str(annotator.runtime.note)
    assert annotator.predict(posts(annotator)) == torch_annotator.predict(posts(torch_annotator))


def test_a_graph_that_lost_something_in_conversion_is_not_used(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Annotator.from_pretrained(str(tiny_checkpoint), device="cpu", threads=1).model
    pool = type(model).encode_text

    def frozen_length(self: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Tracing makes a constant of the example's length.
        return pool(self, ids, mask) * float(ids.shape[1])

    monkeypatch.setattr(type(model), "encode_text", frozen_length)
    with pytest.raises(UnservableError, match=r"the text encoder \(bert\).*differ from torch's"):
        text_graph(model)
