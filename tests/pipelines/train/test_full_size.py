"""The full-size recipe, run as it is, with tiny encoders of the architectures that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from drf_core.annotator import Annotator
from pipelines.cli import main
from tests.data.labelled_posts import write_labelled

RECIPE = Path(__file__).parents[3] / "pipelines" / "train" / "recipes" / "full_size.json"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a tweet RoBERTa's repository is laid out, with random weights."""
    folder = tmp_path_factory.mktemp("roberta")
    posts = pq.read_table(write_labelled(folder / "posts.parquet", 80, 3))["text"].to_pylist()
    pieces = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces.train_from_iterator([text for text in posts if text], 400, special_tokens=special)
    pieces.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(str(folder))
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(str(folder))
    RobertaModel(
        RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, **SMALL)
    ).save_pretrained(folder)
    return folder


def clip() -> tuple[PreTrainedModel, CLIPImageProcessor]:
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    text = {**SMALL, "vocab_size": 99}
    size = {"height": 32, "width": 32}
    return (
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
    )


def siglip() -> tuple[PreTrainedModel, SiglipImageProcessor]:
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    text = {**SMALL, "vocab_size": 99}
    return (
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)),
        SiglipImageProcessor(size={"height": 32, "width": 32}),
    )


@pytest.mark.parametrize("towers", [clip, siglip])
def test_the_full_size_recipe_trains_a_checkpoint_that_annotates(
    corpus: Path, roberta: Path, tmp_path: Path, towers: Callable[[], tuple[PreTrainedModel, Any]]
) -> None:
    model, processor = towers()
    model.save_pretrained(tmp_path / "towers")
    processor.save_pretrained(str(tmp_path / "towers"))
    texts = write_labelled(tmp_path / "texts.parquet", 40, 7, without_image=40)
    code = main(
        [
            *("train", "--posts", str(corpus / "train.parquet"), "--posts", str(texts)),
            *("--validation", str(corpus / "dev.parquet"), "--config", str(RECIPE)),
            *("--text-encoder", str(roberta), "--image-encoder", str(tmp_path / "towers")),
            *("--device", "cpu", "--threads", "1", "--output", str(tmp_path / "full-size")),
        ]
    )
    assert code == 0
    annotator = Annotator.from_pretrained(str(tmp_path / "full-size"), device="cpu", threads=1)
    post = pq.read_table(corpus / "dev.parquet").to_pylist()[-1]
    [said] = annotator.predict([annotator.prepare(post["text"], post["image"])])
    assert said.label in annotator.labels
    assert annotator.model.config.text_config.model_type == "roberta"
    assert "vision" in annotator.model.config.vision_config.model_type
