"""The package: what a wheel installs, and the command that it comes with."""

import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from g2is_jax import commands
from g2is_jax.pipeline.command_line import by_file
from tests.support.small import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel of this checkout's source archive installs, but for its
    requirements."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ("g2is_jax", "configs", "experiments"):
        (source / name).symlink_to(ROOT / name)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], check=True, cwd=source, capture_output=True)
    [archive] = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", folder, archive], check=True, cwd=folder)
    [wheel] = folder.glob("*.whl")
    place = folder / "installed"
    subprocess.run([*pip, "install", *options, "--target", place, wheel], check=True)
    return place


def g2is(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs the installed command in another folder, where nothing of the checkout is found."""
    return subprocess.run(
        [sys.executable, installed / "bin/g2is", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_all_packages_are_named():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "g2is_jax").rglob("__init__.py")
    }
    assert found == {name for name in asked if not name.startswith("g2is_jax.scripts.")}


def test_one_package_is_installed_with_its_files(installed):
    tops = {entry.name for entry in installed.iterdir() if not entry.name.endswith(".dist-info")}
    assert tops == {"g2is_jax", "bin"}
    inside = installed / "g2is_jax"
    for name in ("report/page/page.html.jinja", "scripts/configs/default.py"):
        assert (inside / name).exists()
    assert list((inside / "skills/base").glob("*.safetensors"))
    assert not (inside / "scripts/experiments/bench").exists()


def test_help_lists_the_commands_and_each_has_its_own(installed, tmp_path):
    listed = g2is(installed, tmp_path, "--help")
    assert listed.returncode == 0, listed.stderr
    names = re.findall(r"^  ([a-z-]+)  +\S", listed.stdout, re.MULTILINE)
    scripts = {f.stem for f in (ROOT / "experiments").glob("*.py")} - {"__init__", "launch"}
    assert {name.replace("-", "_") for name in names} == scripts
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: g2is(installed, tmp_path, name, "--help"), names))
    helps = dict(zip(names, found, strict=True))
    for name, own in helps.items():
        assert re.search(rf"^ *g2is {name}( |$)", own.stdout, re.MULTILINE), (name, own.stderr)
        assert "flags:" in own.stdout
        assert "python -m" not in own.stdout.partition("flags:")[0]
    assert "--prompt" in helps["query"].stdout
    assert "--workdir" in helps["curves"].stdout
    wrong = g2is(installed, tmp_path, "runall")
    assert wrong.returncode == 2
    assert "no such command; did you mean run-all?" in wrong.stderr


def test_an_example_from_another_folder(installed, tmp_path):
    """A selection from features, with a shipped config by its name, whatever lies beside it."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").write_text("raise RuntimeError('not this one')\n")
    code = (
        "import numpy as np; r = np.random.default_rng(0); "
        "np.save('F.npy', r.normal(size=(40, 8))); np.save('V.npy', r.normal(size=(4, 8)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    flags = ("--config=default", "--workdir=out", "--train_features=F.npy")
    flags += ("--validation_features=V.npy", "--config.run.methods=g2is")
    done = g2is(installed, tmp_path, "select-subset", *flags)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out/selection.jsonl").read_text().splitlines()) == 2
    absent = g2is(installed, tmp_path, "run-all", "--config=defalt", "--workdir=out")
    assert absent.returncode == 2
    assert "defalt: no such config file" in absent.stderr


@pytest.mark.parametrize("flag", [["--config=tiny"], ["--config", "tiny"], ["-config=tiny"]])
def test_shipped_configs_have_names(flag):
    assert str(ROOT / "configs/tiny.py") in " ".join(by_file(["script", *flag, "--workdir=w"]))
    assert by_file(["script", "--config.run.seeds=0", "tiny"])[1:] == [
        "--config.run.seeds=0",
        "tiny",
    ]
    assert commands.config_file("configs/tiny.py") == "configs/tiny.py"
    assert commands.config_file("reproduce:x").endswith("configs/reproduce.py:x")
    assert commands.config_file("nothing") == "nothing"
