"""The rooms: which code may import which, so that data flows through them one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small import ROOT

ROOMS = ("runs", "data", "skills", "model", "training", "features", "selection", "graph",
         "evaluation", "report", "pipeline", "planning")  # fmt: skip
FILES = sorted(file for top in ("g2is_jax", "experiments") for file in (ROOT / top).rglob("*.py"))
CONFIG_READERS = ("pipeline", "planning")  # all others get frozen dataclasses


def imported(text: str) -> Iterator[str]:
    """Yields the full names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def broken_rules(file: Path, text: str) -> list[str]:
    """Returns what a file, by its path from the project's root, imports against the rules."""
    top, room, broken = file.parts[0], file.parts[1], []
    for name in imported(text):
        parts = name.split(".")
        if top == "g2is_jax":
            of_library = parts[0] == "g2is_jax" and len(parts) > 1
            if of_library and room in ROOMS and parts[1] in ROOMS[ROOMS.index(room) + 1 :]:
                broken.append(f"{name}: the room {parts[1]} comes after {room}")
            if parts[0] in ("experiments", "configs", "tests"):
                broken.append(f"{name}: the library stands by itself")
            if parts[0] == "flax" and room != "model":
                broken.append(f"{name}: flax stays in model/")
            if (parts[0] == "ml_collections" or name == "absl.flags") and (
                room not in CONFIG_READERS
            ):
                broken.append(f"{name}: settings come as frozen dataclasses")
        elif parts[0] == "experiments" and "bench" not in file.parts and parts[1:2] != ["launch"]:
            broken.append(f"{name}: scripts import no script but launch")
    return broken


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_from_the_rooms_above(file):
    assert broken_rules(file.relative_to(ROOT), file.read_text()) == []


@pytest.mark.parametrize(
    ("file", "line", "named"),
    [
        ("g2is_jax/data/chat.py", "from g2is_jax.model import config", "model comes after data"),
        ("g2is_jax/data/chat.py", "def f():\n import g2is_jax.graph.statistics", "graph comes"),
        ("g2is_jax/runs/lock.py", "from experiments import launch", "by itself"),
        ("g2is_jax/training/fit.py", "from flax import nnx", "flax stays"),
        ("g2is_jax/selection/core.py", "from ml_collections import ConfigDict", "frozen"),
        ("g2is_jax/report/plots.py", "from absl import flags", "frozen"),
        ("experiments/warmup.py", "from experiments import finetune", "no script but launch"),
    ],
)
def test_a_broken_rule_is_seen(file, line, named):
    assert named in "".join(broken_rules(Path(file), line))


def test_every_room_has_its_place():
    rooms = {file.parent.name for file in (ROOT / "g2is_jax").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
