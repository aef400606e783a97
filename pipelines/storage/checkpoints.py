"""Finding a checkpoint by name: in the package, in a folder, on any store, or on the hub."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import lru_cache
from typing import Any

from drf_core.checkpoint import DEFAULT_FOLDER, CheckpointError
from pipelines.storage.backends import CredentialsInURLError, open_url

DEFAULT_MODEL = "default"
_ON_HUB = ("*.json", "*.txt", "*.safetensors", "*.md")


def resolve_model(name: str, option: str = "--model") -> str:
    """Local folder of the checkpoint `name`: "default", a folder, an fsspec URL or a hub id.

    option: the command-line option that names it, for messages. Raises CheckpointError where
    there is none.
    """
    if name == DEFAULT_MODEL:
        return str(DEFAULT_FOLDER)
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
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        # Else in a scheduler's log or mail, once for each look at the model.
        disable_progress_bars()
    try:
        return snapshot_download(name, allow_patterns=[*_ON_HUB])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{option} {name}: neither a folder nor a model that the hub gave "
            f"({type(error).__name__}); check the name, the network, or HF_TOKEN"
        ) from error


def check_encoder(name: str | None, option: str) -> None:
    """Raise CheckpointError where `name` is no encoder's folder or hub id; loads nothing of it.

    Asked before anything large is imported. None and `small` name none.
    """
    if name is None or name == "small" or os.path.isfile(os.path.join(name, "config.json")):
        return
    why = "no such folder" if not os.path.isdir(name) else "holds no config.json"
    if not os.path.exists(name) and name.count("/") <= 1 and not name.startswith((".", "/", "~")):
        from huggingface_hub import file_exists, try_to_load_from_cache

        why = "neither a folder nor a model on the hub"
        try:
            if isinstance(try_to_load_from_cache(name, "config.json"), str):
                return
            if file_exists(name, "config.json"):
                return
        except Exception as error:
            # The hub's and its network's errors have no common base.
            why = f"neither a folder nor a model that the hub gave ({type(error).__name__})"
    raise CheckpointError(
        f"{option} {name}: cannot be loaded: {why} "
        "(give a folder or hub id with config.json and safetensors weights)"
    )


@lru_cache(maxsize=8)
def _download(url: str, option: str) -> str:
    folder = tempfile.mkdtemp(prefix="drf-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scheme, _, rest = url.split("?")[0].partition("://")
    shown = f"{scheme}://{rest.rsplit('@', 1)[-1]}"
    try:
        fs, root = open_url(url)
        _get_files(fs, root, folder)
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
