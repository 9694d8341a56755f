"""The configs and scripts by name: beside the package in a checkout, within it where installed.

    g2is run-all --config=default --workdir=runs/mine ...

The command `g2is` runs the scripts of `experiments` by their names.
"""

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

from ml_collections import ConfigDict

from g2is_jax.runs.errors import FAILED, InputError

PACKAGE = Path(__file__).parent
# Where `configs` and `experiments` are: the build of the package puts both into it.
PLACES = (PACKAGE / "scripts", PACKAGE.parent)
HELP = (
    "g2is COMMAND --help lists its flags. --config takes a file, or the name of a shipped config:"
)
NO_RUNS = ("sweeps", "skills_base")  # configs that are not of a run


def home() -> Path:
    """The folder that holds `configs` and `experiments`."""
    found = next((place for place in PLACES if (place / "configs/default.py").exists()), None)
    if found is None:
        raise InputError(f"{PACKAGE}: neither within it nor beside it is configs/default.py")
    return found


def config_file(name: str) -> str:
    """The file of a config that is shipped, by its name: `default`, or `reproduce:NAME` with what
    that one takes; anything else is as it was."""
    stem, colon, rest = name.partition(":")
    file = home() / "configs" / f"{stem}.py"
    return f"{file}{colon}{rest}" if stem.isidentifier() and file.exists() else name


def default_config() -> ConfigDict:
    """The fields of every config, with their defaults."""
    return runpy.run_path(config_file("default"))["get_config"]()


def scripts() -> dict[str, Path]:
    """The file of each script, by the name that the command has for it."""
    files = sorted((home() / "experiments").glob("[a-z]*.py"))
    return {file.stem.replace("_", "-"): file for file in files if file.stem != "launch"}


def as_typed(text: str) -> str:
    """The examples of a script's help as they are typed for the command `g2is`."""
    text = re.sub(
        r"python -m experiments\.(\w+)", lambda found: f"g2is {found[1].replace('_', '-')}", text
    )
    return re.sub(r"configs/(\w+)\.py", r"\1", text)


def usage() -> str:
    """The scripts, each with what it does."""
    found = scripts()
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {_first_line(file)}" for name, file in found.items()]
    files = sorted((home() / "configs").glob("[a-z]*.py"))
    names = ", ".join(file.stem for file in files if file.stem not in NO_RUNS)
    return "\n".join(["usage: g2is COMMAND [--FLAG=VALUE ...]", "", *lines, "", f"{HELP} {names}"])


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


def main() -> None:
    """Runs the script that the first argument names, with the others as its flags."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(usage())
        return
    name, *flags = arguments
    if name not in scripts():
        near = difflib.get_close_matches(name, scripts(), n=1)
        hint = f"did you mean {near[0]}?" if near else "g2is --help lists them"
        print(f"error: g2is {name}: there is no such command; {hint}", file=sys.stderr)
        sys.exit(FAILED)
    sys.path.insert(0, str(home()))  # of this process alone: what is installed is g2is_jax
    sys.argv = [f"g2is {name}", *flags]
    runpy.run_module(f"experiments.{name.replace('-', '_')}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
