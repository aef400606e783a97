"""Smaller encoders made of pre-trained ones: fewer layers and tokens, fewer pixels."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def shrink_text_encoder(
    encoder: PreTrainedModel,
    tokenizer: Any,
    texts: Iterable[str],
    layers: int,
    vocabulary: int,
    max_tokens: int = 128,
) -> tuple[PreTrainedModel, Any]:
    """The first layers of a BERT-like encoder, and the WordPiece tokens that texts use most.

    Every single character and special token is kept, so that what is left out falls apart into
    smaller pieces. Deterministic. Raises ValueError for an encoder that is not BERT or a tokenizer
    that is not WordPiece.
    """
    if encoder.config.model_type != "bert":
        raise ValueError(f"{encoder.config.model_type} cannot be shrunk, only bert")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if described["model"]["type"] != "WordPiece":
        raise ValueError(f"a tokenizer of type {described['model']['type']} cannot be shrunk")
    old = described["model"]["vocab"]
    pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pieces.no_padding()
    pieces.no_truncation()
    used = Counter(piece for text in texts for piece in pieces.encode(text).tokens)
    special = set(tokenizer.all_special_tokens)
    kept = {piece for piece in old if piece in special or len(piece.removeprefix("##")) == 1}
    kept = {piece for piece in kept if piece in special or used[piece]} | {
        mark + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for mark in ("", "##")
    }
    for piece, _ in sorted(used.items(), key=lambda item: (-item[1], old[item[0]])):
        if len(kept) >= vocabulary:
            break
        kept.add(piece)
    ordered = sorted(kept, key=lambda piece: old[piece])
    described["model"]["vocab"] = {piece: number for number, piece in enumerate(ordered)}
    for added in described["added_tokens"]:
        added["id"] = described["model"]["vocab"][added["content"]]
    described["truncation"] = described["padding"] = None
    for name, token in (described["post_processor"] or {}).get("special_tokens", {}).items():
        token["ids"] = [described["model"]["vocab"][name]]
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        model_max_length=max_tokens,
        **{
            f"{role}_token": getattr(tokenizer, f"{role}_token")
            for role in ("pad", "unk", "cls", "sep", "mask")
        },
    )
    rows = torch.tensor([old[piece] for piece in ordered])
    shrunk = copy.deepcopy(encoder)
    shrunk.encoder.layer = nn.ModuleList(list(shrunk.encoder.layer)[:layers])
    embeddings = shrunk.embeddings
    embeddings.word_embeddings = _rows_of(embeddings.word_embeddings, rows, smaller.pad_token_id)
    embeddings.position_embeddings = _rows_of(
        embeddings.position_embeddings, torch.arange(max_tokens), None
    )
    for name in ("position_ids", "token_type_ids"):
        setattr(embeddings, name, getattr(embeddings, name)[:, :max_tokens])
    shrunk.config.num_hidden_layers = layers
    shrunk.config.vocab_size = len(ordered)
    shrunk.config.max_position_embeddings = max_tokens
    shrunk.config.pad_token_id = smaller.pad_token_id
    return shrunk, smaller


def shrink_images(encoder: PreTrainedModel, image_processor: Any, side: int) -> Any:
    """An image processor as it was, but for side x side pixels.

    A convolutional encoder reads them in a fraction of the time; what it says of them is another
    thing, which `distil_image_encoder` mends. Raises ValueError for an encoder that reads no other
    size than its own.
    """
    if hasattr(encoder.config, "patch_size"):
        raise ValueError(f"{encoder.config.model_type} reads images of its own size only")
    smaller = copy.deepcopy(image_processor)
    before = smaller.crop_size if smaller.do_center_crop else smaller.size
    scale = side / min(edge for edge in dict(before).values() if edge)
    smaller.size = {name: round(edge * scale) for name, edge in dict(smaller.size).items() if edge}
    smaller.crop_size = {"height": side, "width": side}
    return smaller


def _rows_of(table: nn.Embedding, rows: torch.Tensor, padding: int | None) -> nn.Embedding:
    return nn.Embedding.from_pretrained(
        table.weight.detach()[rows].clone(), freeze=False, padding_idx=padding
    )
