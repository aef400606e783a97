"""The house stays one that a stranger finds his way in: small rooms, and calls that go one way."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import COSTLY_FIXTURES, COSTLY_ROOMS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "drf_core", "pipelines")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Who comes later may import who comes earlier, and not the other way round.
ORDERS = {
    "": ("schemas", "drf_core", "pipelines"),
    "drf_core": (
        *("write_whole", "checkpoint", "decoding", "model", "runtimes", "annotator"),
        *("pooling", "corpus", "evaluation", "training"),
    ),
    "pipelines": (
        *("threads", "storage", "console", "posts"),
        *("sample", "annotate", "train", "evaluate", "importing", "annotate_posts", "cli"),
    ),
}


def imported(path: Path, later: bool = True) -> set[str]:
    """Modules of this package that a module imports, at its top or later."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if later else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= whole & MODULES.keys() or {node.module}
    return names & MODULES.keys()


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("room", ORDERS)
def test_calls_go_one_way(room: str) -> None:
    order = ORDERS[room]
    prefix = f"{room}." if room else ""

    def place(module: str) -> int | None:
        part = module.removeprefix(prefix).partition(".")[0]
        return order.index(part) if module.startswith(prefix) and part in order else None

    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if (here := place(name)) is not None and (there := place(other)) is not None
        if there > here
    ]
    assert not wrong


def test_no_room_calls_in_a_circle() -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, others in IMPORTS.items():
        for other in others:
            here, there = name.rpartition(".")[0], other.rpartition(".")[0]
            # A room and the rooms inside it are one.
            if not f"{here}.".startswith(f"{there}.") and not f"{there}.".startswith(f"{here}."):
                rooms[here].add(there)
    left = set(rooms)
    while free := {room for room in left if not rooms[room] & left}:
        left -= free
    assert not left


@pytest.mark.parametrize("package", PACKAGES)
def test_few_floors_of_imports_stand_on_each_other(package: str) -> None:
    imports = {name: imported(path, later=False) for name, path in MODULES.items()}

    @functools.cache
    def floor(name: str) -> int:
        below = (other for other in imports[name] if other.startswith(package))
        return 1 + max(map(floor, below), default=0)

    assert max(floor(name) for name in MODULES if name.startswith(package)) <= 9


def test_rooms_and_modules_are_small() -> None:
    tests = Path(__file__).parent
    modules = [*MODULES.values(), *tests.rglob("*.py")]
    folders = {path.parent for path in modules}
    assert not {str(f) for f in folders if len([p for p in f.iterdir() if p.is_file()]) > 14}
    assert not {str(p) for p in modules if p.read_text(encoding="utf-8").count("\n") >= 400}
    top = [path for path in (ROOT / "pipelines").iterdir() if path.name != "__pycache__"]
    assert len([path for path in top if path.is_file()]) <= 6
    assert len([path for path in top if path.is_dir()]) <= 8


def test_what_is_not_quick_is_where_the_marker_looks_for_it(request: pytest.FixtureRequest) -> None:
    tests = Path(__file__).parent
    paths = [path.relative_to(tests).as_posix() for path in tests.rglob("*")]
    # A room that moved would be quick from then on, and nobody would be told.
    assert not [room for room in COSTLY_ROOMS if not any(f"{p}/".startswith(room) for p in paths)]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in tests.rglob("*.py"))
    fixtures = re.findall(r"^@pytest\.fixture.*\ndef (\w+)", sources, re.MULTILINE)
    assert set(fixtures) >= COSTLY_FIXTURES
    quick = [item for item in request.session.items if item.get_closest_marker("quick")]
    for item in quick:
        assert not COSTLY_FIXTURES.intersection(item.fixturenames), item.nodeid
        assert not item.nodeid.removeprefix("tests/").startswith(COSTLY_ROOMS), item.nodeid
