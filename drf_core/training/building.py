"""Encoders of a new DRF model: pre-trained ones, or small ones built from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    BitImageProcessorPil,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
)

from drf_core.decoding.plain_tweet import plain_tweet
from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.shrinking import shrink_images, shrink_text_encoder
from schemas.errors import UsageError

SMALL = "small"

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class EncoderError(UsageError):
    """An encoder that cannot be loaded; the message says why and the way out."""


def build_model(
    text_encoder: str,
    image_encoder: str,
    labels: Sequence[str],
    texts: Iterable[str],
    small: dict[str, Any] | None = None,
    shrink: dict[str, dict[str, int]] | None = None,
    **config: Any,
) -> tuple[DRFModel, DRFProcessor]:
    """A new model and its processor.

    text_encoder, image_encoder: a folder or hub id of any `AutoModel`, or "small" for one
    built without pre-training (its tokenizer is then trained on texts). small: sizes of the
    small encoders (see `small_text_encoder`, `small_image_encoder`). shrink: what to keep of
    pre-trained ones (see `shrink_text_encoder`, `shrink_images`). texts: whose tokens are familiar
    to the model. config: further `DRFConfig` values. Raises EncoderError.
    """
    small, shrink, texts = small or {}, shrink or {}, list(texts)
    text, tokenizer = (
        small_text_encoder(texts, **small.get("text", {}))
        if text_encoder == SMALL
        else _load("--text-encoder", text_encoder)
    )
    if "text" in shrink:
        plain = (plain_tweet(one) for one in texts)
        text, tokenizer = shrink_text_encoder(text, tokenizer, plain, **shrink["text"])
    image, image_processor = (
        small_image_encoder(**small.get("image", {}))
        if image_encoder == SMALL
        else _load("--image-encoder", image_encoder)
    )
    if "image" in shrink:
        image_processor = shrink_images(image, image_processor, **shrink["image"])
    processor = DRFProcessor(image_processor, tokenizer)
    config["max_text_tokens"] = min(
        config.get("max_text_tokens", DRFConfig().max_text_tokens), most_tokens(text, tokenizer)
    )
    reduction = config.pop("image_reduction", None)
    drf_config = DRFConfig(
        text_config=text.config.to_dict(),
        vision_config=image.config.to_dict(),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **config,
    )
    probe = DRFModel(drf_config, text, image).eval()
    drf_config.text_feature_size, drf_config.image_feature_size = _feature_sizes(probe, processor)
    drf_config.image_reduction = reduction
    model = DRFModel(drf_config, text, image)
    read = (processor.token_ids(one, drf_config.max_text_tokens) for one in texts)
    model.token_statistics.fit(read, tokenizer)
    return model, processor


def most_tokens(encoder: PreTrainedModel, tokenizer: Any) -> int:
    """Longest text that an encoder can read, in tokens."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if positions and encoder.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # the padding index comes before the first position
    return min(n for n in (positions, tokenizer.model_max_length) if n)


@torch.no_grad()
def _feature_sizes(model: DRFModel, processor: DRFProcessor) -> tuple[int, int]:
    from PIL import Image

    inputs = processor(["a"], [Image.new("RGB", (320, 320))])
    return (
        model.encode_text(inputs["input_ids"], inputs["attention_mask"]).shape[-1],
        model.encode_image(inputs["pixel_values"]).shape[-1],
    )


def load_image_encoder(option: str, name: str) -> tuple[PreTrainedModel, Any]:
    """A pre-trained image encoder and its processor; option names who asked, for messages."""
    return _load(option, name)


def _load(option: str, name: str) -> tuple[PreTrainedModel, Any]:
    try:
        model = AutoModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(f"{model.config.model_type} is an encoder with a decoder")
        if option == "--text-encoder":
            from transformers import AutoTokenizer

            return getattr(model, "text_model", model), AutoTokenizer.from_pretrained(
                name, trust_remote_code=False
            )
        from transformers import AutoImageProcessor

        return (
            getattr(model, "vision_model", model),
            AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False),
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(
            f"{option} {name}: cannot be loaded: {first} "
            "(give a folder or hub id with config.json and safetensors weights)"
        ) from error


def small_text_encoder(
    texts: Iterable[str],
    vocabulary: int = 8000,
    hidden: int = 192,
    layers: int = 3,
    heads: int = 4,
    max_tokens: int = 128,
) -> tuple[PreTrainedModel, Any]:
    """A small BERT with random weights and a byte-level BPE tokenizer trained on texts."""
    tokenizer = train_tokenizer(texts, vocabulary, max_tokens)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModel.from_config(config), tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_tokens: int) -> Any:
    """A lower-casing byte-level BPE tokenizer: any script and emoji, nothing unknown.

    Not WordPiece, whose trainer numbers pieces in another order every time.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    pieces = Tokenizer(models.BPE())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, pieces.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        model_max_length=max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def small_image_encoder(
    widths: Sequence[int] = (32, 64, 128, 256),
    depths: Sequence[int] = (1, 1, 1, 1),
    side: int = 128,
) -> tuple[PreTrainedModel, Any]:
    """A small ResNet with random weights and the image processor for side x side pixels."""
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=list(depths), layer_type="basic"
    )
    processor = BitImageProcessorPil(
        size={"shortest_edge": side + side // 8},
        crop_size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=2,
    )
    return AutoModel.from_config(config), processor
