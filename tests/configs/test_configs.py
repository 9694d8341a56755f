"""Every field of the config is read by something, and every config has the same fields."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

from configs import default
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.settings import check_settings, read_settings
from tests.support.read_fields import fields_read
from tests.support.small import ROOT

OTHERS = {"skills_base", "sweeps"}  # of other scripts, with fields of their own
CONFIGS = sorted(
    file.stem
    for file in (ROOT / "configs").glob("*.py")
    if not file.stem.startswith("_") and file.stem not in OTHERS
)
CHOICES = {  # the end of a field's name -> values that it may have
    "anchors": ("rows", "components"),
    "keep": ("variance", "ratio"),
    "sign": ("svd", "mean"),
    "delta_reference": ("current", "best"),
    "on_exhausted": ("stop", "relax"),
    "order": ("components", "together"),
    "graph.kind": ("exact", "knn"),
    "projection.kind": ("rademacher", "sketch"),
    "precondition": ("none", "pool"),
    "kind": ("rms", "sign"),
    "selection.unit": ("fraction", "rows"),
    "selection.memory": ("memory", "disk"),
    "selection.targets": ("joint", "merged"),
    "schedule": ("linear", "cosine"),
    "dtype": ("bfloat16", "float32"),
    "activations": ("bfloat16", "float32"),
    "model.layers": ("scan", "loop", "depth"),
    "attention": ("splash", "blocks"),
    "chat_template": ("auto", "tulu"),
    "overlap": ("report", "remove"),
    "bad_rows": ("drop", "stop"),
    "data.columns": ("", "prompt=my_q"),
    "data.today": ("", "2026-01-31"),
    "evaluate.adapter": ("last", "best"),
    "evaluate.tasks": ("answer", "gsm8k"),
    "harness_include": ("", str(ROOT)),
    "run.methods": ("g2is", "less"),
    "run.seeds": ("0", "1"),
    "run.trackers": ("", "tensorboard"),
    "grads.of": ("adapter", "layers"),
    "world.targets": ("sorting_letters", "lookup_arithmetic"),
}
SOURCES = [*(ROOT / "experiments").glob("*.py"), *(ROOT / "g2is_jax").rglob("*.py")]


def load(name: str) -> ConfigDict:
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def another(field: str, value):
    """Returns another value of a field that is valid too."""
    for end, values in CHOICES.items():
        if field.endswith(end):
            return values[values[0] == value]
    if isinstance(value, bool):
        return not value
    return value / 2 + 0.01 if isinstance(value, float) else value + type(value)(1)


def without_effect(config: ConfigDict) -> list[str]:
    """Returns the fields that change no settings, whichever gradients are taken."""
    config.selection.budget = 1.0  # the only number that is valid in each unit
    of_layers = config.copy_and_resolve_references()
    of_layers.grads.of = "layers"
    found = [set(_without_effect(base)) for base in (config, of_layers)]
    return [field for field in config_fields(config) if all(field in own for own in found)]


def _without_effect(config: ConfigDict) -> Iterator[str]:
    settings = check_settings(config, "cpu")
    for field, value in config_fields(config).items():
        changed = config.copy_and_resolve_references()
        fields = {field: another(field, value)}
        if field == "grads.checkpoints":  # several need a warm-up
            fields["grads.of"] = "adapter"
        changed.update_from_flattened_dict(fields)
        if check_settings(changed, "cpu") == settings:
            yield field


def fields_in(settings) -> set[tuple[str, str]]:
    """Returns (class, field) of settings and of all that they hold."""
    if isinstance(settings, tuple):
        return set().union(*map(fields_in, settings))
    if isinstance(settings, dict):
        return fields_in(tuple(settings.values()))
    if not dataclasses.is_dataclass(settings):
        return set()
    own = {(type(settings).__name__, field) for field in vars(settings)}
    return own | fields_in(tuple(vars(settings).values()))


def test_every_field_comes_into_the_settings():
    """Beside those that are read from the config itself, under their full names."""
    texts = "".join(file.read_text() for file in SOURCES)
    found = without_effect(default.get_config())
    assert [field for field in found if f"config.{field}" not in texts] == []
    assert found == ["run.replace", "run.trackers"]


def test_a_field_that_comes_into_no_settings_would_be_found():
    config = default.get_config()
    with config.unlocked():
        config.grads.seed = 5  # others have a field of that name
    assert without_effect(config) == ["grads.seed", "run.replace", "run.trackers"]


def test_every_field_of_the_settings_is_read_by_something():
    expected = fields_in(check_settings(default.get_config(), "cpu"))
    assert len(expected) > 90
    assert expected - fields_read(file.read_text() for file in SOURCES) == set()


def test_a_field_that_nothing_reads_would_be_found():
    """Also where other settings have one of that name."""
    texts = {file: file.read_text() for file in SOURCES}
    for name, read in (
        ("skills/world.py", r"config\.seed"),
        ("selection/methods.py", r"kinds\.paper"),
        ("pipeline/finetune_stage.py", r"settings\.merge"),
    ):
        file = ROOT / "g2is_jax" / name
        texts[file], count = re.subn(read, "0", texts[file])
        assert count > 0, name
    unread = fields_in(check_settings(default.get_config(), "cpu")) - fields_read(texts.values())
    assert unread == {
        ("WorldConfig", "seed"),
        ("FeatureKinds", "paper"),
        ("FinetuneSettings", "merge"),
    }


def test_sections_are_read_as_wholes_or_field_by_field():
    """A section that a room owns has just that room's fields, so `**section` leaves none out."""
    config = default.get_config()
    config.model.checkpoint = config.data.pool = "skills"
    read_settings(config, "cpu")


def test_the_kernel_of_attention_is_the_backends():
    """The settings, and with them the identity of each stage, name the kernel that runs."""
    for backend, kernel in (("tpu", "splash"), ("gpu", "cudnn"), ("cpu", "blocks")):
        assert check_settings(default.get_config(), backend).base.model.attention == kernel


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_the_fields_and_types_of_the_default(name):
    expected, found = config_fields(default.get_config()), config_fields(load(name))
    assert list(found) == list(expected)
    assert {f: type(v) for f, v in found.items()} == {f: type(v) for f, v in expected.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid(name):
    check_settings(load(name), "tpu")


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
