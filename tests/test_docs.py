"""What the pages tell people to type: each script, flag, field and file that they name is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import default
from g2is_jax.pipeline.fields import config_fields
from tests.support.small import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments/README.md"]
SCRIPTS = [file for file in (ROOT / "experiments").rglob("*.py") if file.stem != "__init__"]
SHARED = [ROOT / "experiments/launch.py", ROOT / "experiments/bench/timing.py"]
NAME = r"((?:bench\.)?[a-z][a-z_-]*)(?![.\w])"
COMMAND = re.compile(rf"(?:python3? -m experiments\.{NAME}|g2is {NAME}(?= --))((?: [^`\n]*)?)")
FIELDS = set(config_fields(default.get_config()))


def commands() -> Iterator[tuple[str, str, str]]:
    """Where a command stands, its script, and the rest of it: of pages and of docstrings."""
    for file in (*PAGES, *SCRIPTS, *(ROOT / "configs").glob("*.py")):
        text = file.read_text()
        if file.suffix == ".py":
            text = ast.get_docstring(ast.parse(text)) or ""
        text = re.sub(r"\\?\n +(?=--)|\\\n\s*", " ", text)  # a command of several lines
        for found in COMMAND.finditer(text):
            yield (
                file.relative_to(ROOT).as_posix(),
                (found[1] or found[2]).replace("-", "_"),
                found[3],
            )


def own_words(script: Path) -> set[str]:
    """The words of a script's code, among which are the names of its flags."""
    text = script.read_text()
    return set(
        re.findall(r"\w+", text.replace(ast.get_docstring(ast.parse(text), clean=False) or "", ""))
    )


ALL = sorted(set(commands()))


def test_there_are_commands():
    assert len(ALL) > 100


@pytest.mark.parametrize(("page", "script", "rest"), ALL)
def test_a_command_can_be_typed(page, script, rest):
    file = ROOT / "experiments" / f"{script.replace('.', '/')}.py"
    assert file.exists(), f"{page}: experiments.{script}"
    known = own_words(file).union(*map(own_words, SHARED))
    known |= {"pool_rows", "validation_rows", "test_rows"}  # of `estimate`, which joins them
    known |= {"help", "jax_compilation_cache_dir", "jax_log_compiles", "flagfile"}
    for name in re.findall(r"(?<!\S)--(?:no)?([a-z][\w.]*)", rest):
        if name.startswith("config."):
            assert name.removeprefix("config.") in FIELDS, f"{page}: --{name}"
        else:
            assert {name, f"no{name}"} & known, f"{page}: experiments.{script} --{name}"
    for name in re.findall(r"--config=(configs/\w+\.py)", rest):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
