"""Every field of the config is read by something, and every config has the same fields."""

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import default
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.settings import check_settings, read_settings
from tests.support.small import ROOT

OTHERS = {"skills_base", "sweeps"}  # of other scripts, with fields of their own
CONFIGS = sorted(
    file.stem
    for file in (ROOT / "configs").glob("*.py")
    if not file.stem.startswith("_") and file.stem not in OTHERS
)
SOURCES = [*(ROOT / "experiments").glob("*.py"), *(ROOT / "g2is_jax").rglob("*.py")]


def load(name: str) -> ConfigDict:
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def names_in(files: list[Path]) -> set[str]:
    """Attributes that are read and fields of dataclasses, by their bare names."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    return names


def unread(config: ConfigDict, names: set[str]) -> list[str]:
    return [field for field in config_fields(config) if field.rpartition(".")[2] not in names]


def test_every_field_is_read_by_something():
    names = names_in(SOURCES)
    assert unread(default.get_config(), names) == []


def test_an_unread_field_would_be_found():
    config = default.get_config()
    with config.unlocked():
        config.walk.dleta = 0.5
    assert unread(config, names_in(SOURCES)) == ["walk.dleta"]


def test_sections_are_read_as_wholes_or_field_by_field():
    """A section that a room owns has just that room's fields, so `**section` leaves none out."""
    config = default.get_config()
    config.model.checkpoint = config.data.pool = "skills"
    read_settings(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_the_fields_and_types_of_the_default(name):
    expected, found = config_fields(default.get_config()), config_fields(load(name))
    assert list(found) == list(expected)
    assert {f: type(v) for f, v in found.items()} == {f: type(v) for f, v in expected.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid(name):
    check_settings(load(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_cannot_gain_a_field_by_a_slip_of_the_pen(name):
    config = load(name)
    with pytest.raises(AttributeError, match="Did you mean"):
        config.grads.chunk_row = 3


def test_tiny_and_study_exist_and_get_configs_do_not_share_state():
    assert {"default", "tiny"} <= set(CONFIGS)
    first = default.get_config()
    first.walk.delta = 0.1
    assert default.get_config().walk.delta == 0.8
    assert first.paper.walk.delta == 0.8


def test_configs_find_each_other_from_any_folder(tmp_path):
    """By the way of `--config`, where the project is installed and not the current folder."""
    files = [str(ROOT / "configs" / f"{name}.py") for name in CONFIGS]
    program = (
        "from absl import flags\n"
        "from ml_collections import config_flags\n"
        f"for number, file in enumerate({files}):\n"
        "    config = config_flags.DEFINE_config_file(f'c{number}', file)\n"
        "    flags.FLAGS(['-'], known_only=True)\n"
        "    assert config.value.selection.budget > 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
