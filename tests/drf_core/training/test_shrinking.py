"""A smaller text encoder says the same of the tokens that it kept; an image encoder sees less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessorPil,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.building import build_model, train_tokenizer
from drf_core.training.shrinking import shrink_images, shrink_text_encoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["lake", "morning", "lovely", "never", "used", "words", "##ing", "##ly", "é", "!"]
TEXTS = ["lovely lake", "lake !", "a lovely morning lake", "walking é"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    # Not in the order in which a smaller vocabulary would number them.
    pieces = [*WORDS[::-1], *SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    made.enable_padding(pad_id=vocabulary["[PAD]"], length=64)
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, **{f"{n}_token": t for n, t in names.items()}
    )


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=3,
            num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def smaller(encoder: BertModel, tokenizer: Any) -> tuple[Any, Any]:
    return shrink_text_encoder(encoder, tokenizer, TEXTS, 3, 83, max_tokens=32)


def embedded(encoder: Any, tokenizer: Any, text: str) -> torch.Tensor:
    ids = torch.tensor([tokenizer(text, padding=False)["input_ids"]])
    with torch.no_grad():
        return encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def test_a_model_is_built_with_what_it_had_learned(
    encoder: BertModel, tokenizer: Any, tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, processor = build_model(
        str(tmp_path), "small", ("negative", "positive"), TEXTS, queue_length=16,
        shrink={"text": {"layers": 3, "vocabulary": 83, "max_tokens": 32}},
    )  # fmt: skip
    assert torch.allclose(
        embedded(model.text_encoder, processor.tokenizer, "a lovely lake"),
        embedded(encoder, tokenizer, "a lovely lake"),
        atol=1e-5,
    )


def test_with_all_its_layers_it_says_the_same_of_texts_in_kept_words(
    encoder: BertModel, tokenizer: Any, smaller: tuple[Any, Any]
) -> None:
    small, pieces = smaller
    assert len(pieces) < len(tokenizer)
    for text in TEXTS:
        assert torch.allclose(
            embedded(small, pieces, text), embedded(encoder, tokenizer, text), atol=1e-5
        )


def test_every_token_keeps_its_embedding(
    encoder: BertModel, tokenizer: Any, smaller: tuple[Any, Any]
) -> None:
    small, pieces = smaller
    old, new = (e.embeddings.word_embeddings.weight for e in (encoder, small))
    for piece, number in pieces.get_vocab().items():
        assert torch.equal(new[number], old[tokenizer.get_vocab()[piece]]), piece


def test_what_is_left_out_falls_apart_into_letters(smaller: tuple[Any, Any]) -> None:
    _, pieces = smaller
    assert "never" not in pieces.get_vocab()
    read = pieces.tokenize("never words")
    assert "[UNK]" not in read and "".join(read).replace("##", "") == "neverwords"
    assert set(SPECIAL) <= set(pieces.get_vocab())


def test_only_the_first_layers_stay_and_the_first_one_is_not_touched(
    encoder: BertModel, tokenizer: Any
) -> None:
    before = encoder.state_dict()
    small, _ = shrink_text_encoder(encoder, tokenizer, TEXTS, 1, 90, max_tokens=16)
    assert len(small.encoder.layer) == small.config.num_hidden_layers == 1
    for name, value in small.encoder.state_dict().items():
        assert torch.equal(value, before[f"encoder.{name}"])
    assert small.embeddings.position_embeddings.num_embeddings == 16
    assert len(encoder.encoder.layer) == 3 and encoder.config.vocab_size == len(tokenizer)


def test_it_is_saved_and_loaded_like_any_other(smaller: tuple[Any, Any], tmp_path: Any) -> None:
    small, pieces = smaller
    small.save_pretrained(tmp_path)
    pieces.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path).eval()
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in TEXTS:
        assert torch.equal(embedded(again, loaded, text), embedded(small, pieces, text))


def test_the_same_texts_give_the_same_encoder(
    encoder: BertModel, tokenizer: Any, smaller: tuple[Any, Any]
) -> None:
    again = shrink_text_encoder(encoder, tokenizer, iter(TEXTS), 3, 83, max_tokens=32)[1]
    assert again.get_vocab() == smaller[1].get_vocab()


def test_other_encoders_and_tokenizers_are_refused(encoder: BertModel, tokenizer: Any) -> None:
    roberta = RobertaModel(
        RobertaConfig(vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match="roberta cannot be shrunk"):
        shrink_text_encoder(roberta, tokenizer, TEXTS, 1, 80)
    with pytest.raises(ValueError, match="type BPE cannot be shrunk"):
        shrink_text_encoder(encoder, train_tokenizer(TEXTS, 300, 32), TEXTS, 1, 80)


def test_fewer_pixels_show_the_same_part_of_a_picture(tokenizer: Any) -> None:
    encoder = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    whole = BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56},
        image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2,
    )  # fmt: skip
    smaller = shrink_images(encoder, whole, 28)
    picture = Image.linear_gradient("L").convert("RGB").resize((300, 200))
    seen, seen_smaller = (DRFProcessor(of, tokenizer).pixels(picture) for of in (whole, smaller))
    assert seen.shape == (3, 56, 56) and seen_smaller.shape == (3, 28, 28)
    of_pairs = seen.reshape(3, 28, 2, 28, 2).mean((2, 4))
    assert abs(of_pairs - seen_smaller).max() < 3


def test_an_encoder_of_one_size_is_not_shown_another() -> None:
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    with pytest.raises(ValueError, match="vit reads images of its own size only"):
        shrink_images(ViTModel(config), ViTImageProcessorPil(), 16)
