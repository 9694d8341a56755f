"""The rooms: which code may import which, so that data flows through them one way; and names."""

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.small import ROOT

ROOMS = ("runs", "data", "skills", "model", "training", "features", "selection", "graph",
         "evaluation", "report", "pipeline", "planning")  # fmt: skip
FILES = sorted(file for top in ("g2is_jax", "experiments") for file in (ROOT / top).rglob("*.py"))
# All others get frozen dataclasses.
CONFIG_READERS = ("pipeline", "planning", "api.py", "commands.py")
FOR_SCRIPTS = ("pipeline", "planning", "report", "runs")
BESIDES = {  # script -> the rooms whose tool it is; benchmarks measure any room
    "exchange_features.py": ("features",),
    "fetch_task.py": ("evaluation",),
    "merge_adapter.py": ("model",),
}


def imported(text: str) -> Iterator[str]:
    """Yields the full names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def broken_rules(file: Path, text: str) -> list[str]:
    """Returns what a file, by its path from the project's root, imports against the rules."""
    broken_by = library_rule if file.parts[0] == "g2is_jax" else script_rule
    broken = ((name, broken_by(file, [*name.split("."), ""])) for name in imported(text))
    return [f"{name}: {rule}" for name, rule in broken if rule]


def library_rule(file: Path, name: list[str]) -> str | None:
    """Returns the rule that is broken where the library imports a name."""
    room = file.parts[1]
    if name[0] == "g2is_jax" and {room, name[1]} <= {*ROOMS}:
        if ROOMS.index(name[1]) > ROOMS.index(room):
            return f"the room {name[1]} comes after {room}"
    elif name[0] in ("experiments", "configs", "tests"):
        return "the library stands by itself"
    elif name[0] == "flax" and room != "model":
        return "flax stays in model/"
    elif name[0] == "ml_collections" or name[:2] == ["absl", "flags"]:
        return None if room in CONFIG_READERS else "settings come as frozen dataclasses"
    return None


def script_rule(file: Path, name: list[str]) -> str | None:
    """Returns the rule that is broken where a script or benchmark imports a name."""
    if "bench" in file.parts:
        if name[0] == "experiments" and name[1] != "bench":
            return "benchmarks import no script"
    elif name[0] == "experiments" and name[1] != "launch":
        return "scripts import no script but launch"
    elif name[0] == "g2is_jax" and name[1] not in (*FOR_SCRIPTS, *BESIDES.get(file.name, ())):
        return f"a script calls {', '.join(FOR_SCRIPTS)}; the room {name[1]} is further in"
    return None


def circles(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the pairs of modules, by full name, that import each other."""
    targets = {
        module: {part for name in imported(text) for part in (name, name.rpartition(".")[0])}
        for module, text in texts.items()
    }
    return [
        (first, second)
        for first, second in itertools.combinations(sorted(texts), 2)
        if second in targets[first] and first in targets[second]
    ]


def shared_names(files: Iterable[Path]) -> list[str]:
    """Returns the names that files of several rooms have, by their paths from g2is_jax on."""
    rooms = defaultdict(set)
    for file in files:
        rooms[file.name].add(file.parts[0])
    return sorted(name for name, at in rooms.items() if len(at) > 1 and name != "__init__.py")


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
        ("experiments/warmup.py", "import g2is_jax.model.build", "model is further in"),
        ("experiments/bench/walk.py", "from experiments import launch", "no script"),
    ],
)
def test_a_broken_rule_is_seen(file, line, named):
    assert named in "".join(broken_rules(Path(file), line))


def test_no_two_files_import_each_other():
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
    assert circles({module: file.read_text() for module, file in modules.items()}) == []


def test_a_circle_is_seen():
    texts = {
        "g2is_jax.a.x": "from g2is_jax.a.y import f\nimport os",
        "g2is_jax.a.y": "def f():\n from g2is_jax.a import x",
        "g2is_jax.a.z": "from g2is_jax.a import x, y",
    }
    assert circles(texts) == [("g2is_jax.a.x", "g2is_jax.a.y")]


def test_no_two_rooms_have_files_of_one_name():
    library = ROOT / "g2is_jax"
    assert shared_names(file.relative_to(library) for file in library.rglob("*.py")) == []
    assert shared_names([Path("data/x.py"), Path("data/y.py"), Path("runs/x.py")]) == ["x.py"]


def test_every_room_has_its_place():
    rooms = {file.parent.name for file in (ROOT / "g2is_jax").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
