"""An image encoder that learns the features of another, or its own at another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.openvino_graphs import image_graph
from drf_core.training.building import build_model
from drf_core.training.distillation import (
    DistillationSettings,
    distil_image_encoder,
    look_at_images,
)
from tests.conftest import LABELS
from tests.data.corpora import make_posts

POSTS = [TrainingPost(post["text"], post["image"]) for post in make_posts(48)]
REDUCED = 6


@pytest.fixture
def seen(tmp_path: Path) -> tuple[DRFModel, TrainingCorpus, Any]:
    """A model whose features are reduced, what it learns from, and its encoder before."""
    torch.manual_seed(0)
    sizes = {"text": {"vocabulary": 300, "hidden": 16, "layers": 1, "heads": 2}}
    image = {"widths": (8, 16, 16, 32), "side": 48}
    made, processor = build_model("small", "small", LABELS, ["a"], small={**sizes, "image": image})
    # Statistics that are not those of a new one.
    with torch.no_grad():
        made.image_encoder.train()
        for _ in range(20):
            made.image_encoder(pixel_values=torch.randn(16, 3, 48, 48))
    made.image_encoder.eval().save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    model, processor = build_model(
        "small", str(tmp_path), LABELS, ["a"], small=sizes, shrink={"image": {"side": 32}},
        image_reduction=REDUCED,
    )  # fmt: skip
    return model, TrainingCorpus(POSTS, processor, 32), (made.image_encoder, processor, tmp_path)


def taught(seen: Any, epochs: int) -> tuple[DRFModel, torch.Tensor, list[int], float]:
    from drf_core.training.building import load_image_encoder

    model, corpus, (_, _, folder) = seen
    teacher, image_processor = load_image_encoder("--image-teacher", str(folder))
    features, rows = look_at_images(teacher, image_processor, model, corpus)
    settings = DistillationSettings(image_epochs=epochs, batch_size=16, learning_rate=1e-4)
    cosine = distil_image_encoder(model, corpus, features, rows, settings, folder, pretrained=True)
    return model, features, rows, cosine


def test_features_are_reduced_along_what_distinguishes_the_teachers_images(seen: Any) -> None:
    model, features, _, _ = taught(seen, epochs=1)
    assert features.shape[1] == 32
    assert model.config.encoded_sizes["image"] == REDUCED
    directions = model.image_reduction.weight.detach()
    features = features.float()
    centred = features - features.mean(0)
    kept = (centred @ directions.T).square().sum() / centred.square().sum()
    best = torch.linalg.svdvals(centred)[:REDUCED].square().sum() / centred.square().sum()
    assert kept > 0.98 * best


def test_it_says_more_of_what_the_teacher_says_than_before(seen: Any) -> None:
    *_, before = taught(seen, epochs=1)
    *_, after = taught(seen, epochs=8)
    assert after > before


def test_batch_norm_of_an_encoder_that_has_learned_stays(seen: Any) -> None:
    model, _, (encoder, _, _) = seen
    taught(seen, epochs=1)
    statistics = [(n, b) for n, b in encoder.named_buffers() if "running" in n]
    assert statistics
    learned = dict(model.image_encoder.named_buffers())
    assert all(torch.equal(learned[name], before) for name, before in statistics)
    weights = dict(model.image_encoder.named_parameters())
    changed = [
        not torch.equal(weights[name], before) for name, before in encoder.named_parameters()
    ]
    assert any(changed)


def test_a_checkpoint_that_reduces_is_loaded_and_converted_as_it_was(
    seen: Any, tmp_path: Path
) -> None:
    model, _, _, _ = taught(seen, epochs=1)
    processor: DRFProcessor = seen[1].processor
    folder = tmp_path / "checkpoint"
    model.eval().save_pretrained(folder)
    again = DRFModel.from_pretrained(folder).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8))
    with torch.no_grad():
        expected, found = (m.encode_image(processor.normalise(pixels)) for m in (model, again))
    assert expected.shape == (3, REDUCED)
    torch.testing.assert_close(found, expected)
    assert image_graph(again, processor).outputs[0].partial_shape[1].get_length() == REDUCED
