"""Identifying what a checkpoint folder holds, without importing torch.

A checkpoint is a `save_pretrained` folder: config.json, model.safetensors, tokenizer and
image-processor files, README.md (the model card).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UsageError

# The one that ships in the package.
DEFAULT_FOLDER = Path(__file__).parent / "default_checkpoint"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_MOST_JSON_BYTES = 256 << 20
_MOST_LAYERS = 1_000
# What ends like this is a side of some tensor.
_OF_TENSORS = ("_size", "_dim", "_positions", "_embeddings")
# All other files of the folder may change what the model says, and are hashed.
_NOT_LOADED = (".md", ".png", ".gitattributes", ".gitignore", ".log")
_PREPROCESSING = {
    "text": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
    ),
    "image": ("preprocessor_config.json", "processor_config.json"),
}
# Settings that say where a part came from, not what it does.
_PROVENANCE = {
    "_name_or_path", "architectures", "dtype", "processor_class", "transformers_version",
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class CheckpointError(UsageError):
    """A checkpoint that does not exist or cannot be used; the message says the way out."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a job needs to know of a checkpoint before any worker loads it.

    labels: in the order of the model's probabilities. revision: hash of every file that
    changes what the model says (the model card does not).
    """

    folder: str
    labels: tuple[str, ...]
    revision: str
    quality_threshold: float


def read_checkpoint(folder: str) -> CheckpointInfo:
    """Labels, content hash and quality threshold of the checkpoint in `folder`.

    Raises CheckpointError for a folder without config.json, with pickle weights only, or
    of another model type.
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if "config.json" not in names:
        raise CheckpointError(f"{folder}: holds no config.json; it is no checkpoint folder")
    if _WEIGHTS not in names and _INDEX not in names:
        pickles = [name for name in names if name.endswith(_PICKLES)]
        found = f"holds pickle weights ({pickles[0]})" if pickles else f"holds no {_WEIGHTS}"
        raise CheckpointError(
            f"{folder}: {found}; only safetensors are loaded, since a pickle can run code: "
            "save the model again with save_pretrained"
        )
    _check_files(folder, names)
    config = _read_json(folder, "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json: holds no object")
    if config.get("model_type") != "drf":
        raise CheckpointError(
            f"{folder}: is a {config.get('model_type')!r} model, not a DRF checkpoint; "
            "train one from it with `drf train --text-encoder … --image-encoder …`"
        )
    _check_sizes(folder, names, config)
    labels = tuple(label for _, label in sorted((int(k), v) for k, v in config["id2label"].items()))
    return CheckpointInfo(folder, labels, _revision(folder, names), config["quality_threshold"])


def _read_json(folder: str, name: str) -> Any:
    try:
        return json.loads(Path(folder, name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder}/{name}: is not valid JSON ({error})") from error


def _check_files(folder: str, names: list[str]) -> None:
    """Refuse what is read without end, and weights that lie anywhere but in the folder."""
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.isdir(path) and not os.path.isfile(path):
            raise CheckpointError(f"{path}: is no regular file; save the model again")
        if name.endswith(".json") and os.path.getsize(path) > _MOST_JSON_BYTES:
            raise CheckpointError(f"{path}: is too large for what it should hold")
    if _INDEX not in names:
        return
    index = _read_json(folder, _INDEX)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    for name in set(weights.values() if isinstance(weights, dict) else [None]):
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or name not in names:
            raise CheckpointError(
                f"{folder}/{_INDEX}: names {name!r}, which is no *.safetensors file of this "
                "folder; save the model again with save_pretrained"
            )


def _check_sizes(folder: str, names: list[str], config: dict[str, Any]) -> None:
    """Refuse a configuration that claims more than its weights hold, before any of it is built."""
    held = sum(
        os.path.getsize(os.path.join(folder, n)) for n in names if n.endswith(".safetensors")
    )
    for part in (config, config.get("text_config"), config.get("vision_config")):
        settings = part if isinstance(part, dict) else {}
        numbers = {k: v for k, v in settings.items() if isinstance(v, int)}
        layers = max((v for k, v in numbers.items() if "layers" in k or "depth" in k), default=1)
        width = numbers.get("hidden_size", 1)
        most = max((v for k, v in numbers.items() if k.endswith(_OF_TENSORS)), default=0)
        if layers > _MOST_LAYERS or layers * width * width > held or most > max(held, 1 << 24):
            raise CheckpointError(
                f"{folder}/config.json: describes a model that its {held:,} bytes of weights "
                "cannot be; save the model again with save_pretrained"
            )


def _revision(folder: str, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        if name.endswith(_NOT_LOADED) or not os.path.isfile(os.path.join(folder, name)):
            continue
        digest.update(name.encode())
        with open(os.path.join(folder, name), "rb") as file:
            digest.update(
                hashlib.file_digest(file, "sha256").digest()
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(file.read()).digest()
            )
    return digest.hexdigest()[:16]


def encoder_revisions(folder: str) -> dict[str, str]:
    """Content hash of each encoder of the checkpoint in `folder`, "text" and "image".

    Of its weights, its configuration and its tokenizer or image processor: of all that
    changes its features, and of nothing else, so that equal hashes share features.
    """
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    parts = {
        "text": (
            ("text_encoder.", "token_statistics."),
            ("text_config", "text_pooling", "max_text_tokens"),
        ),
        "image": (
            ("image_encoder.", "image_reduction."),
            ("vision_config", "image_pooling", "image_reduction"),
        ),
    }
    revisions = {}
    for modality, (prefixes, settings) in parts.items():
        digest = hashlib.sha256()
        described = [_without_provenance(config.get(name)) for name in settings]
        digest.update(json.dumps(described, sort_keys=True).encode())
        for name in sorted(os.listdir(folder)):
            path = Path(folder, name)
            if name.endswith(".safetensors"):
                _digest_tensors(path, prefixes, digest)
            elif name in _PREPROCESSING[modality]:
                digest.update(name.encode())
                digest.update(_settings(path))
        revisions[modality] = digest.hexdigest()[:16]
    return revisions


def _settings(path: Path) -> bytes:
    """What a file of a tokenizer or image processor says."""
    if path.suffix != ".json":
        return path.read_bytes()
    said = _without_provenance(json.loads(path.read_text(encoding="utf-8")))
    return json.dumps(said, sort_keys=True).encode()


def _without_provenance(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {name: value for name, value in settings.items() if name not in _PROVENANCE}


def _digest_tensors(path: Path, prefixes: tuple[str, ...], digest: hashlib._Hash) -> None:
    """Digest the tensors of a safetensors file whose names start with one of prefixes, by name.

    The format: the header's length (8 bytes), the header (JSON), the tensors one after the other.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(name for name in header if name.startswith(prefixes)):
            start, end = header[name]["data_offsets"]
            about = [name, header[name]["dtype"], header[name]["shape"]]
            digest.update(json.dumps(about).encode())
            file.seek(8 + length + start)
            digest.update(file.read(end - start))
