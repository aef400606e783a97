"""`drf publish` against a stand-in of the hub, through the hub's own client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from drf_core.checkpoint import read_checkpoint
from drf_core.training.model_card import Provenance, usage
from tests.drf_core.training.test_model_card import card
from tests.support.services.hub import TOKEN, Hub, running_hub

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def python(hub: Hub, tmp_path: Path) -> Call:
    """Runs Python as a user of that hub: its address is read when the client is imported."""

    def call(*arguments: object, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_HOME": str(tmp_path / "hf"), **hub.environment(token)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text(card(provenance=Provenance("mit")))
    return folder


def publish(python: Call, *arguments: object, token: str | None = TOKEN) -> tuple[int, str]:
    ran = python("-m", "pipelines.cli", "publish", *arguments, token=token)
    return ran.returncode, ran.stdout + ran.stderr


def test_a_published_checkpoint_is_whole_and_can_be_used_by_its_name(
    hub: Hub, python: Call, checkpoint: Path
) -> None:
    revision = read_checkpoint(str(checkpoint)).revision
    (checkpoint / "_training").mkdir()
    for name in ("_training/state.pt", "notes.pkl", ".hidden.json"):
        (checkpoint / name).write_bytes(b"not for the world")
    code, said = publish(python, checkpoint, "me/name", "--private")
    assert code == 0, said
    published = hub.repositories["me/name"]
    assert published.private and len(published.commits) == 1
    kept = {path.name for path in checkpoint.iterdir()} - {"_training", "notes.pkl", ".hidden.json"}
    assert set(published.files) == kept
    page = published.files["README.md"].decode()
    assert usage("me/name") in page and ModelCard(page).data.license == "mit"

    resolve = (
        "from pipelines.storage.checkpoints import resolve_model; print(resolve_model('me/name'))"
    )
    found = python("-c", resolve)
    assert (found.returncode, found.stderr) == (0, "")
    assert read_checkpoint(found.stdout.strip()).revision == revision


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["me"], "me: is no name on the hub; write OWNER/NAME"),
        (["me/name", "--licens", "mit"], "unknown option"),
    ],
)
def test_mistakes_end_before_anything_is_sent(
    hub: Hub, python: Call, checkpoint: Path, arguments: list[str], says: str
) -> None:
    code, said = publish(python, checkpoint, *arguments)
    assert code == 2 and says in said and "Traceback" not in said
    assert not hub.repositories


def test_without_a_licence_nothing_is_published(hub: Hub, python: Call, checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text(card())
    code, said = publish(python, checkpoint, "me/name")
    assert code == 2 and "names no licence" in said
    assert not hub.repositories
    assert publish(python, checkpoint, "me/name", "--license", "mit")[0] == 0
    assert ModelCard(hub.repositories["me/name"].files["README.md"].decode()).data.license == "mit"


def test_nobody_publishes_without_a_token(hub: Hub, python: Call, checkpoint: Path) -> None:
    for token in (None, "hf_wrong"):
        code, said = publish(python, checkpoint, "me/name", token=token)
        assert code == 2 and "hf auth login" in said and "Traceback" not in said
    assert not hub.repositories


def test_what_is_to_be_private_is_not_added_to_what_everyone_reads(
    hub: Hub, python: Call, checkpoint: Path
) -> None:
    assert publish(python, checkpoint, "me/name")[0] == 0
    code, said = publish(python, checkpoint, "me/name", "--private")
    assert code == 2 and "everyone can read it" in said
    assert len(hub.repositories["me/name"].commits) == 1


def test_a_hub_that_is_not_there_is_one_line(python: Call, hub: Hub, checkpoint: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    code, said = publish(python, checkpoint, "me/name")
    assert code == 2 and "cannot be reached" in said and said.count("\n") == 1
