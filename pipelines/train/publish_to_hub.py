"""The job behind `drf publish`: a checkpoint's files and its card onto the hub, in one commit."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from drf_core.checkpoint import read_checkpoint
from pipelines.storage.checkpoints import resolve_model
from schemas.errors import UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
# A checkpoint, and nothing else that lies in its folder.
_PUBLISHED = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "LICENSE*",
    "NOTICE*",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drf publish`."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="folder that `drf train` wrote, or `default`")
    add("name", metavar="OWNER/NAME", help="what it is called on the hub")
    add("--private", action="store_true", help="for you and your organisation alone")
    add(
        "--license",
        metavar="ID",
        help="of the checkpoint, as the hub spells it (apache-2.0, …); default: its card's",
    )


def run_publish(args: argparse.Namespace) -> int:
    """Publish; returns the exit code.

    Raises CheckpointError for what is no checkpoint, UsageError for a card that cannot be
    published and for whatever the hub refuses.
    """
    if not _HUB_ID.fullmatch(args.name):
        raise UsageError(f"{args.name}: is no name on the hub; write OWNER/NAME")
    folder = Path(resolve_model(args.checkpoint, "CHECKPOINT"))
    read_checkpoint(str(folder))
    card = _card(folder, args)
    files = _files(folder)

    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()

    api = HfApi()
    try:
        url = _repository(api, args.name, args.private)
        commit = api.create_commit(
            args.name,
            [
                CommitOperationAdd(CARD, card.encode()),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
            ],
            commit_message=f"Checkpoint {args.name.rpartition('/')[2]}",
        )
    except UsageError:
        raise
    except LocalTokenNotFoundError as error:
        raise UsageError(_NOT_ALLOWED) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UsageError(f"{args.name}: {_NOT_ALLOWED}") from error
        raise UsageError(f"{args.name}: the hub answered {status}: {_first(error)}") from error
    except ValueError as error:
        raise UsageError(f"{folder / CARD}: the hub refuses the card: {_first(error)}") from error
    except (HTTPError, OSError) as error:
        raise UsageError(
            f"{args.name}: the hub cannot be reached ({type(error).__name__}); "
            "check the network, or HF_ENDPOINT"
        ) from error
    print(f"published {len(files) + 1} files at {url} (commit {commit.oid[:12]})")
    print(f"use it: drf annotate --model {args.name} --input … --output …")
    return 0


_NOT_ALLOWED = (
    "the hub lets only those in who may write there; log in with `hf auth login`, "
    "or set HF_TOKEN to a token with the right to write"
)


def _repository(api: HfApi, name: str, private: bool) -> str:
    """URL of the repository, made where there is none yet."""
    url = api.create_repo(name, private=private or None, exist_ok=True)
    if private and not api.model_info(name).private:
        raise UsageError(
            f"{name}: is there already and everyone can read it; make it private on the hub, "
            "choose another name, or leave --private out"
        )
    return str(url)


def _card(folder: Path, args: argparse.Namespace) -> str:
    from drf_core.training.model_card import as_published

    path = folder / CARD
    if not path.is_file():
        raise UsageError(f"{folder}: holds no {CARD}; nobody can use a model without its card")
    try:
        card = as_published(path.read_text(encoding="utf-8"), args.name, args.license)
    except ValueError as error:
        raise UsageError(f"{path}: its metadata cannot be read ({_first(error)})") from error
    if not card.data.get("license"):
        raise UsageError(
            f"{path}: names no licence; its encoders' licences say what is allowed: "
            "name it with --license, such as --license apache-2.0"
        )
    return str(card)


def _files(folder: Path) -> dict[str, str]:
    """The files of a checkpoint, by their names on the hub."""
    found = [path for pattern in _PUBLISHED for path in folder.glob(pattern)]
    names = {str(path.relative_to(folder)): path for path in sorted(found) if path.is_file()}
    return {name: str(path) for name, path in names.items() if not path.name.startswith(".")}


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
