"""A frozen image encoder gives the same features, compiled or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, BitImageProcessorPil, ViTConfig

from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes import frozen_encoder
from drf_core.runtimes.frozen_encoder import frozen_image_encoder
from drf_core.runtimes.interface import UnservableError
from drf_core.training.building import build_model


def pixels() -> torch.Tensor:
    made = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(made)


def compare(model: DRFModel, processor: DRFProcessor) -> None:
    few, many = (frozen_image_encoder(model, processor, images) for images in (1, 100_000))
    plain, compiled = few(pixels()), many(pixels())
    # Otherwise both would be torch, and there would be nothing to compare.
    assert few.__name__ == "with_torch" and many.__name__ == "with_openvino"
    assert plain.shape == (5, model.config.image_feature_size)
    assert not plain.requires_grad and plain.dtype == compiled.dtype == torch.float32
    assert torch.allclose(plain, compiled, rtol=1e-3, atol=1e-3)
    with torch.inference_mode():
        assert torch.allclose(plain, model.encode_image(processor.normalise(pixels())), atol=1e-4)
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    # Compiling leaves the encoder as it was: a training goes on with it.
    model.encode_image(processor.normalise(pixels())).sum().backward()
    assert any(p.grad is not None for p in model.image_encoder.parameters())


def test_the_compiled_encoder_gives_the_features_that_torch_gives(tiny_checkpoint: Path) -> None:
    model = DRFModel.from_pretrained(tiny_checkpoint)
    compare(model, DRFProcessor.from_pretrained(str(tiny_checkpoint)))


def test_an_encoder_that_insists_on_its_size_is_compiled_for_what_the_crop_leaves(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
    )
    encoder.save_pretrained(tmp_path)
    # Resized to 36, then cropped to 32.
    crop = {"height": 32, "width": 32}
    BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop).save_pretrained(tmp_path)
    small = {"text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2}}
    model, processor = build_model("small", str(tmp_path), ("a", "b"), ["a text"], small)
    compare(model, processor)


def test_an_encoder_that_cannot_be_converted_is_run_by_torch_and_says_so(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise UnservableError("OpenVINO cannot convert the image encoder (resnet): no such op")

    monkeypatch.setattr(frozen_encoder, "image_graph", refuse)
    model = DRFModel.from_pretrained(tiny_checkpoint)
    processor = DRFProcessor.from_pretrained(str(tiny_checkpoint))
    with caplog.at_level("WARNING", frozen_encoder.__name__):
        encode = frozen_image_encoder(model, processor, 1000)
    assert encode(pixels()).shape == (5, model.config.image_feature_size)
    assert "no such op; torch encodes the images" in caplog.text
