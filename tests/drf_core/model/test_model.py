"""The whole model: how quality, recovery and fusion hang together."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.designs import DESIGNS
from drf_core.model.modeling_drf import DRFModel
from tests.support.features import drawn_features


@pytest.fixture
def model(tiny_checkpoint: Path) -> DRFModel:
    return DRFModel.from_pretrained(tiny_checkpoint).eval()


def forward(model: DRFModel, text: torch.Tensor, image: torch.Tensor | None) -> object:
    present = torch.tensor([[True, image is not None]] * len(text))
    with torch.inference_mode():
        return model.forward_features(text, image, present)


def of_text(model: DRFModel, posts: int = 8, spread: float = 1.0) -> torch.Tensor:
    return drawn_features(model, "text", posts, spread=spread)


def of_image(model: DRFModel, posts: int = 8) -> torch.Tensor:
    return drawn_features(model, "image", posts)


def test_a_low_quality_modality_can_say_less(model: DRFModel) -> None:
    # What is strange is trusted less than the rest.
    model.trust.copy_(torch.tensor([[0.2, 0.2, 0.9, 0.95]]).expand(2, 4))
    with torch.no_grad():
        for layer in model.unimodal_heads["text"][-1:]:
            layer.weight.mul_(1000)
    image = of_image(model)
    usual, strange = (
        forward(model, of_text(model, spread=0.1), image),
        forward(model, of_text(model, spread=50), image),
    )
    assert bool((strange.quality[:, 0] < 0.05).all() & (usual.quality[:, 0] > 0.05).all())
    said = [output.evidence[:, 0].amax(1) - output.evidence[:, 0].amin(1)
            for output in (usual, strange)]  # fmt: skip
    most = math.log((0.2 * 3 + 0.8) / 0.8)
    # Beside its own there is what is recovered from the image, as far as that is worth it.
    assert bool((said[1] < said[0]).all())
    without = forward(model, of_text(model, spread=50), None).evidence[:, 0]
    assert bool((without.amax(1) - without.amin(1) <= most + 1e-4).all())


def test_what_is_recovered_from_a_distrusted_source_is_not_believed_more(model: DRFModel) -> None:
    model.trust.copy_(torch.tensor([[0.1, 0.1, 0.9, 0.95]]).expand(2, 4))
    with torch.no_grad():
        model.unimodal_heads["image"][-1].weight.mul_(1000)
    strange = forward(model, of_text(model, spread=50), None)
    assert bool((strange.quality[:, 0] < 0.05).all())
    said = strange.evidence[:, 1]
    assert bool((said.amax(1) - said.amin(1) <= math.log((0.1 * 3 + 0.9) / 0.9) + 1e-4).all())


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_predicts_any_mixture_of_present_and_absent(
    model: DRFModel, tiny_checkpoint: Path, design: str
) -> None:
    state = model.state_dict()
    model = DRFModel(DRFConfig.from_pretrained(tiny_checkpoint, design=design))
    model.load_state_dict(state, strict=False)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    with torch.inference_mode():
        output = model.eval().forward_features(of_text(model, 2), of_image(model, 2), present)
    assert bool(output.logits.isfinite().all()) and bool(output.evidence.isfinite().all())
    assert output.evidence.shape == (3, 2, 3)


def test_the_logits_are_what_both_modalities_put_in_and_the_prior(model: DRFModel) -> None:
    model.temperature.fill_(1.7)
    said = forward(model, of_text(model), of_image(model))
    own = model.fusion.bias.detach() / 1.7
    assert torch.allclose(said.logits, said.evidence.sum(1) + own, atol=1e-5)


def test_an_explicit_prior_moves_the_odds_and_leaves_the_evidence(model: DRFModel) -> None:
    text, image = of_text(model), of_image(model)
    before = forward(model, text, image)
    model.config.prior = {"negative": 0.2, "neutral": 0.2, "positive": 0.6}
    after = forward(model, text, image)
    moved = after.logits - before.logits
    assert torch.allclose(moved[:, 2] - moved[:, 0], torch.tensor(3.0).log(), atol=1e-5)
    assert torch.allclose(moved[:, 1], moved[:, 0], atol=1e-5)
    assert torch.equal(after.evidence, before.evidence)
    # Training keeps the prior out: its loss adds the corpus's own.
    model.train()
    torch.manual_seed(0)
    first = model.forward_features(text, image, torch.ones(8, 2, dtype=torch.bool)).logits
    model.config.prior = None
    torch.manual_seed(0)
    again = model.forward_features(text, image, torch.ones(8, 2, dtype=torch.bool)).logits
    assert torch.equal(first, again)


def test_damage_is_named_where_it_is_present_and_not_in_training(model: DRFModel) -> None:
    present = torch.tensor([[True, True], [True, False]])
    with torch.inference_mode():
        found = model.forward_features(of_text(model, 2), of_image(model, 1), present).damage
    assert found.shape == (2, 2) and int(found[1, 1]) == -1
    model.train()
    assert model.forward_features(of_text(model, 2), of_image(model, 1), present).damage is None


def test_a_recovered_feature_depends_on_its_source_alone(model: DRFModel) -> None:
    text, image = of_text(model, 4), of_image(model, 4)
    with_image, without = forward(model, text, image), forward(model, text, None)
    assert torch.allclose(with_image.recovered[:, 1], without.recovered[:, 1], atol=1e-6)


def test_a_checkpoint_holds_the_paired_queue_and_none_that_only_distributions_need(
    model: DRFModel, tiny_checkpoint: Path
) -> None:
    saved = load_file(tiny_checkpoint / "model.safetensors")
    assert bool(saved["paired_queue.text"].any()) and bool(saved["paired_queue.image"].any())
    assert not [name for name in saved if "disrupted_queues." in name]
    assert len(model.queues()) == 5


def test_qualities_are_the_same_inside_autocast(model: DRFModel) -> None:
    text, image = of_text(model), of_image(model)
    plain = forward(model, text, image)
    with torch.autocast("cpu", torch.bfloat16):
        under = forward(model, text, image)
    assert torch.equal(plain.quality, under.quality)
    assert torch.equal(plain.logits, under.logits)


def test_a_post_without_any_modality_is_refused(model: DRFModel) -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        model(text_present=torch.tensor([False]), image_present=torch.tensor([False]))


def test_a_text_encoders_own_pooler_is_no_part_of_it(model: DRFModel, tmp_path: Path) -> None:
    assert not [name for name in model.state_dict() if "pooler" in name]
    # Of a checkpoint that was written while it was.
    state = model.state_dict() | {"text_encoder.pooler.dense.bias": torch.zeros(32)}
    model.save_pretrained(tmp_path, state_dict=state)
    _, report = DRFModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
