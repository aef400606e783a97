"""Finding and identifying a checkpoint folder, without importing torch.

A checkpoint is a `save_pretrained` folder: config.json, model.safetensors, tokenizer and
image-processor files, README.md (the model card).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from drf_core.file_systems import CredentialsInURLError, open_url
from schemas.errors import UsageError

DEFAULT_MODEL = "default"
# Encoders quantised for OpenVINO. They belong to a revision and do not change it: which runtime
# computes is no part of what a shard is.
INT8_FOLDER = "openvino-int8"
_DEFAULT_FOLDER = Path(__file__).parent / "default_checkpoint"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PREPROCESSING = {
    "text": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
    ),
    "image": ("preprocessor_config.json", "processor_config.json"),
}
_ON_HUB = ("*.json", "*.txt", "*.safetensors", "*.md")
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


def resolve_model(name: str, option: str = "--model") -> str:
    """Local folder of the checkpoint `name`: "default", a folder, an fsspec URL or a hub id.

    option: the command-line option that names it, for messages. Raises CheckpointError where
    there is none.
    """
    if name == DEFAULT_MODEL:
        return str(_DEFAULT_FOLDER)
    if os.path.isdir(name):
        return name
    if "://" in name:
        return _download(name, option)
    if os.path.exists(name):
        raise CheckpointError(f"{option} {name}: is a file; give the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"{option} {name}: no such folder; give a folder written by `drf train`, "
            "a hub id (owner/name), or an fsspec URL"
        )
    return _from_hub(name, option)


def _from_hub(name: str, option: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=[*_ON_HUB, f"{INT8_FOLDER}/*"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{option} {name}: neither a folder nor a model that the hub gave "
            f"({type(error).__name__}); check the name, the network, or HF_TOKEN"
        ) from error


@lru_cache(maxsize=8)
def _download(url: str, option: str) -> str:
    folder = tempfile.mkdtemp(prefix="drf-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scheme, _, rest = url.split("?")[0].partition("://")
    shown = f"{scheme}://{rest.rsplit('@', 1)[-1]}"
    try:
        fs, root = open_url(url)
        int8 = f"{root.rstrip('/')}/{INT8_FOLDER}"
        _get_files(fs, root, folder)
        if fs.isdir(int8):
            _get_files(fs, int8, os.path.join(folder, INT8_FOLDER))
    except ImportError as error:
        raise CheckpointError(
            f"{option} {shown}: the package that reads such URLs is not installed ({error}); "
            "this package's extras `s3` and `gcs` have those for s3:// and gs://: "
            "pip install '.[s3]'"
        ) from error
    except CredentialsInURLError as error:
        raise CheckpointError(f"{option} {shown}: {error}") from error
    except Exception as error:
        # Stores' libraries raise errors of many kinds, which have no common base.
        raise CheckpointError(
            f"{option} {shown}: cannot be read ({type(error).__name__}); "
            "check the URL and the store's credentials"
        ) from error
    return folder


def _get_files(fs: Any, root: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    for info in fs.ls(root, detail=True):
        name = info["name"].rsplit("/", 1)[-1]
        # Object stores may hold an empty object for the folder itself.
        if info["type"] == "file" and name:
            fs.get_file(info["name"], os.path.join(folder, name))


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
    try:
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder}/config.json: is not valid JSON ({error})") from error
    if config.get("model_type") != "drf":
        raise CheckpointError(
            f"{folder}: is a {config.get('model_type')!r} model, not a DRF checkpoint; "
            "train one from it with `drf train --text-encoder … --image-encoder …`"
        )
    labels = tuple(label for _, label in sorted((int(k), v) for k, v in config["id2label"].items()))
    return CheckpointInfo(folder, labels, _revision(folder, names), config["quality_threshold"])


def _revision(folder: str, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        if not name.endswith((".json", ".txt", ".safetensors", ".model")):
            continue
        digest.update(name.encode())
        with open(os.path.join(folder, name), "rb") as file:
            digest.update(
                hashlib.file_digest(file, "sha256").digest()
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(file.read()).digest()
            )
    return digest.hexdigest()[:16]


def encoder_revisions(folder: str, quantised: bool = False) -> dict[str, str]:
    """Content hash of each encoder of the checkpoint in `folder`, "text" and "image".

    Of its weights, its configuration and its tokenizer or image processor: of all that
    changes its features, and of nothing else. quantised: of the int8 encoders, which depend on
    the posts that they were calibrated on as well.
    """
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    parts = {
        "text": ("text_encoder.", ("text_config", "text_pooling", "max_text_tokens")),
        "image": ("image_encoder.", ("vision_config", "image_pooling")),
    }
    revisions = {}
    for modality, (prefix, settings) in parts.items():
        digest = hashlib.sha256()
        digest.update(json.dumps([config.get(name) for name in settings], sort_keys=True).encode())
        for name in sorted(os.listdir(folder)):
            path = Path(folder, name)
            if name.endswith(".safetensors"):
                _digest_tensors(path, prefix, digest)
            elif name in _PREPROCESSING[modality]:
                digest.update(name.encode())
                digest.update(path.read_bytes())
        if quantised:
            for path in sorted(Path(folder, INT8_FOLDER).glob(f"{modality}.*")):
                digest.update(path.read_bytes())
        revisions[modality] = digest.hexdigest()[:16]
    return revisions


def _digest_tensors(path: Path, prefix: str, digest: hashlib._Hash) -> None:
    """Digest the tensors of a safetensors file whose names start with prefix, by name.

    The format: the header's length (8 bytes), the header (JSON), the tensors one after the other.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(name for name in header if name.startswith(prefix)):
            start, end = header[name]["data_offsets"]
            about = [name, header[name]["dtype"], header[name]["shape"]]
            digest.update(json.dumps(about).encode())
            file.seek(8 + length + start)
            digest.update(file.read(end - start))
