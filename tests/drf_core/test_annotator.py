"""The annotator: any mixture of present and absent modalities, on real images."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from drf_core.annotator import UNFAMILIAR, Annotator
from drf_core.checkpoint import CheckpointError
from drf_core.decoding.plain_tweet import plain_tweet
from drf_core.decoding.tokens import TEXT_WINDOWS
from drf_core.model.modeling_drf import DRFModel
from drf_core.runtimes.choice import DeviceError


@pytest.fixture(scope="module")
def annotator(tiny_checkpoint: Path) -> Annotator:
    return Annotator.from_pretrained(str(tiny_checkpoint), device="cpu", threads=1)


def jpeg(seed: int = 0, size: tuple[int, int] = (90, 60)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_post_with_both_modalities_is_present_in_both(annotator: Annotator) -> None:
    [prediction] = annotator.predict([annotator.prepare("good sunny day", jpeg())])
    assert prediction.label in annotator.labels
    assert sum(prediction.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert prediction.confidence == max(prediction.probabilities)
    assert prediction.text.reason is None and prediction.image.reason is None
    assert 0 < prediction.text.quality <= 1 and 0 < prediction.image.quality <= 1


@pytest.mark.parametrize(
    ("text", "image", "missing", "reason"),
    [
        (None, jpeg(), "text", "missing"),
        (" \n\t\u200b", jpeg(), "text", "blank"),
        ("good", None, "image", "missing"),
        ("good", b"", "image", "missing"),
        ("good", b"<html>", "image", "undecodable"),
        ("good", jpeg(size=(300, 300))[:-400], "image", "truncated"),
    ],
)
def test_an_unusable_modality_is_recovered_with_its_reason(
    annotator: Annotator, text: str | None, image: bytes | None, missing: str, reason: str
) -> None:
    [prediction] = annotator.predict([annotator.prepare(text, image)])
    assert getattr(prediction, missing).state == "recovered"
    assert getattr(prediction, missing).reason == reason


@pytest.mark.parametrize("text", ["good sunny day", "bad " * 500, "Ünï  ok!!"])
def test_texts_are_tokenised_as_by_the_tokenizer_itself(annotator: Annotator, text: str) -> None:
    text = plain_tweet(text)
    processor = annotator.processor
    for most in (96, 5, 96):
        expected = processor.tokenizer(text, truncation=True, max_length=most)["input_ids"]
        processor.tokenizer("")  # Sets no truncation.
        first, again = processor.token_ids(text, most), processor.token_ids(text, most)
        assert first == again == expected
    processor.token_ids("", annotator.model.config.max_text_tokens)


def test_a_post_in_a_mixed_batch_is_annotated_as_alone(annotator: Annotator) -> None:
    posts = [
        annotator.prepare("good sunny day", jpeg(1)),
        annotator.prepare(None, jpeg(2)),
        annotator.prepare("a much longer text about rain and bad days, and rain", None),
        annotator.prepare("rain", jpeg(3)),
    ]
    together = annotator.predict(posts)
    for post, prediction in zip(posts, together, strict=True):
        [alone] = annotator.predict([post])
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
        assert alone.image.quality == pytest.approx(prediction.image.quality, abs=1e-5)


def test_what_a_post_calls_a_mask_is_a_word_of_it(annotator: Annotator) -> None:
    special = set(annotator.processor.tokenizer.all_special_ids)
    literal = annotator.prepare("good [MASK] day [SEP] [PAD]", None)
    assert literal.token_ids is not None
    assert not special & set(literal.token_ids[1:-1])
    masked = annotator.processor.token_ids(f"good {annotator.processor.mask_token} day", 96)
    assert annotator.processor.tokenizer.mask_token_id in masked
    [said, plain] = annotator.predict([literal, annotator.prepare("good day", None)])
    assert said.text.state != "recovered" and said.probabilities != plain.probabilities


def test_a_long_text_is_read_in_windows_and_says_how_much_was(annotator: Annotator) -> None:
    most = annotator.model.config.max_text_tokens
    short, long, longer = (annotator.prepare("good sunny day " * n, None) for n in (1, 100, 4000))
    assert short.text_share_read == long.text_share_read == 1
    assert long.token_ids is not None and len(long.token_ids) > most
    assert longer.token_ids is not None and len(longer.token_ids) == TEXT_WINDOWS * most
    assert 0 < longer.text_share_read < 0.5
    shares = [p.text_share_read for p in annotator.predict([short, long, longer])]
    assert shares == [short.text_share_read, long.text_share_read, longer.text_share_read]
    assert annotator.share_read("good sunny day " * 4000) == longer.text_share_read
    without = annotator.prepare(None, jpeg())
    assert annotator.predict([without])[0].text_share_read is None


def test_a_texts_features_are_the_mean_over_its_windows_by_their_tokens(
    annotator: Annotator,
) -> None:
    most = annotator.model.config.max_text_tokens
    text = annotator.prepare("good sunny day " * 60 + "rain", None)
    assert text.token_ids is not None
    windows = [text.token_ids[i : i + most] for i in range(0, len(text.token_ids), most)]
    assert len(windows) > 1 and len(windows[-1]) != most
    alone = np.stack([annotator.encode_texts([ids])[0] for ids in windows])
    lengths = np.array([len(ids) for ids in windows])[:, None]
    short = annotator.prepare("bad", None).token_ids
    whole = annotator.encode_texts([short, text.token_ids, short])
    assert np.allclose(whole[1], (alone * lengths).sum(0) / lengths.sum(), atol=1e-5)
    assert np.allclose(whole[[0, 2]], annotator.encode_texts([short]), atol=1e-5)


def test_low_quality_has_a_name_and_what_resembles_no_damage_is_unfamiliar(
    annotator: Annotator,
) -> None:
    kinds = {"text": {"typos", "no_vowels"}, "image": {"blur", "noise"}}
    texts = ["qzx " * 40, "这家餐厅的服务太差了", "0x7f 0x8a 0x9b " * 9, None, "sunny day"]
    posts = [annotator.prepare(text, jpeg(size=(64, 64))) for text in texts]
    found = annotator.predict(posts)
    for prediction in found:
        for name in ("text", "image"):
            modality = getattr(prediction, name)
            low = modality.state == "low_quality"
            assert low == (modality.quality < 0.05 and modality.reason is None)
            assert (
                (modality.damage in kinds[name] | {UNFAMILIAR})
                if low
                else (modality.damage is None)
            )
    assert [p.text.damage for p in found[1:3]] == [UNFAMILIAR] * 2
    # Nobody's post is a square of noise.
    assert found[0].image.state == "low_quality"


def test_evidence_is_for_each_label_against_the_others(annotator: Annotator) -> None:
    [prediction] = annotator.predict([annotator.prepare("good sunny day", jpeg())])
    present = torch.ones(1, 2, dtype=torch.bool)
    post = annotator.prepare("good sunny day", jpeg())
    text = annotator.encode_texts([post.token_ids or []])
    image = annotator.encode_images([post.pixels] if post.pixels is not None else [])
    with torch.inference_mode():
        output = annotator.model.forward_features(*map(torch.from_numpy, (text, image)), present)
    said = output.evidence[0] - output.evidence[0].mean(-1, keepdim=True)
    assert prediction.text.evidence == pytest.approx(said[0].tolist(), abs=1e-5)
    assert prediction.image.evidence == pytest.approx(said[1].tolist(), abs=1e-5)


def test_a_post_with_nothing_usable_is_refused(annotator: Annotator) -> None:
    post = annotator.prepare(" ", b"junk")
    assert not post.usable
    with pytest.raises(ValueError, match="at least one modality"):
        annotator.predict([post])


def test_an_absent_modality_is_never_encoded(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    encode = annotator.model.encode_image
    monkeypatch.setattr(
        annotator.model, "encode_image", lambda pixels: rows.append(len(pixels)) or encode(pixels)
    )
    annotator.predict([annotator.prepare("good", None), annotator.prepare("bad", jpeg())])
    assert rows == [1]


def test_a_batch_that_does_not_fit_is_halved(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = [annotator.prepare(f"good {i}", None) for i in range(8)]
    expected = [p.probabilities for p in annotator.predict(posts)]
    encode, sizes = annotator.encode_texts, []

    def small_memory(token_ids: list[list[int]]) -> np.ndarray:
        sizes.append(len(token_ids))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(token_ids)

    monkeypatch.setattr(annotator, "encode_texts", small_memory)
    got = [p.probabilities for p in annotator.predict(posts)]
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert np.allclose(got, expected, atol=1e-5)
    annotator._largest_batch = None


def test_a_gpu_asked_for_and_absent_is_an_error(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no usable GPU"):
        Annotator.from_pretrained(str(tiny_checkpoint), device="cuda")


def test_a_saved_model_says_the_same_when_loaded(annotator: Annotator, tmp_path: Path) -> None:
    posts = [
        annotator.prepare("good sunny day in the rain", jpeg()),
        annotator.prepare("bad", None),
    ]
    annotator.model.save_pretrained(tmp_path)
    annotator.processor.save_pretrained(str(tmp_path))
    again = Annotator.from_pretrained(str(tmp_path), device="cpu", threads=1)
    for before, after in zip(annotator.predict(posts), again.predict(posts), strict=True):
        assert after == before


def test_a_checkpoint_that_lacks_weights_or_has_others_is_refused(
    tiny_checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    monkeypatch.setattr(logging.get_logger(), "propagate", True)
    state = load_file(folder / "model.safetensors")
    bias = state.pop("fusion.bias")
    for others in ({}, {"fusion.bias": bias[:-1]}):
        save_file({**state, **others}, folder / "model.safetensors", metadata={"format": "pt"})
        refused = r"1 weights are missing or of another size, such as fusion\.bias"
        with pytest.raises(CheckpointError, match=refused):
            Annotator.from_pretrained(str(folder), device="cpu")
    # The sentence is all: no table of transformers' beside it.
    assert "fusion.bias" not in caplog.text


def test_a_checkpoint_that_was_cut_off_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="weights cannot be loaded"):
        Annotator.from_pretrained(str(folder), device="cpu")


def test_a_new_model_pads_texts_as_a_loaded_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from drf_core.training.building import build_model

    torch.manual_seed(0)
    model, processor = build_model("small", "small", ("a", "b"), ["some words to learn"] * 4)
    inputs = processor(["some words", "a"], [None, None])
    with torch.inference_mode():
        new = model.eval().encode_text(inputs["input_ids"], inputs["attention_mask"])
        model.save_pretrained(tmp_path)
        loaded = DRFModel.from_pretrained(tmp_path).eval()
        after = loaded.encode_text(inputs["input_ids"], inputs["attention_mask"])
    assert torch.allclose(new, after, atol=1e-6)
