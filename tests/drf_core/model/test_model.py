"""The whole model: how quality, recovery and fusion hang together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.designs import DESIGNS
from drf_core.model.modeling_drf import DRFModel


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


def forward(model: DRFModel, text: torch.Tensor, image: torch.Tensor | None) -> object:
    present = torch.tensor([[True, image is not None]] * len(text))
    with torch.inference_mode():
        return model.forward_features(text, image, present)


def test_a_low_quality_modality_weighs_less(model: DRFModel) -> None:
    usual = model.undisrupted_queue.rows("text")[:8]
    image = model.undisrupted_queue.rows("image")[:8]
    before = forward(model, usual, image)
    after = forward(model, usual * 6, image)
    strange = after.quality[:, 0] < 0.02
    assert bool(strange.any())
    assert bool((after.weight[strange, 0] < before.weight[strange, 0]).all())


def test_what_is_recovered_from_a_distrusted_source_is_not_believed_more(model: DRFModel) -> None:
    strange = forward(model, model.undisrupted_queue.rows("text")[:8] * 6, None)
    low = strange.quality[:, 0] < 0.02
    assert bool(low.any())
    prior = float(model.fusion.prior.detach()[1].sigmoid())
    most = prior / (1 + prior)
    assert bool((strange.weight[low, 1] <= most + 1e-6).all())


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_predicts_any_mixture_of_present_and_absent(
    model: DRFModel, tiny_checkpoint: Path, design: str
) -> None:
    state = model.state_dict()
    model = DRFModel(DRFConfig.from_pretrained(tiny_checkpoint, design=design))
    model.load_state_dict(state, strict=False)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    text, image = (model.undisrupted_queue.rows(m)[:2] for m in ("text", "image"))
    with torch.inference_mode():
        output = model.eval().forward_features(text, image, present)
    assert bool(output.logits.isfinite().all())
    assert torch.allclose(output.weight.sum(-1), torch.ones(3))


def test_a_recovered_feature_depends_on_its_source_alone(model: DRFModel) -> None:
    text = model.undisrupted_queue.rows("text")[:4]
    image = model.undisrupted_queue.rows("image")[:4]
    with_image, without = forward(model, text, image), forward(model, text, None)
    assert torch.allclose(with_image.recovered[:, 1], without.recovered[:, 1], atol=1e-6)


def test_qualities_are_the_same_inside_autocast(model: DRFModel) -> None:
    text = model.undisrupted_queue.rows("text")[:8]
    image = model.undisrupted_queue.rows("image")[:8]
    plain = forward(model, text, image)
    with torch.autocast("cpu", torch.bfloat16):
        under = forward(model, text, image)
    assert torch.equal(plain.quality, under.quality)
    assert torch.equal(plain.logits, under.logits)


def test_a_post_without_any_modality_is_refused(model: DRFModel) -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        model(text_present=torch.tensor([False]), image_present=torch.tensor([False]))
