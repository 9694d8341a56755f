"""Flags and errors of every script: `--config`, overridable and locked, and `--workdir`."""

import difflib
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up notes

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import naming_full_disk

FAILED = 2  # exit status after an error that the user can act on


def launch(run: Callable[[ConfigDict, epath.Path], Any]) -> None:
    """Parse the flags, then call `run(config, workdir)`; a user's mistake ends in one line."""
    config_flag = config_flags.DEFINE_config_file("config", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Folder of stages and results.")
    flags.mark_flag_as_required("workdir")
    jax.config.config_with_absl()

    def main(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
        if len(argv) > 1:
            raise InputError(f"{argv[1]!r} is not a flag; flags look like --config.walk.delta=0.7")
        place = epath.Path(workdir.value)
        with naming_full_disk(place):
            run(config_flag.value, place)

    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def _parse(argv: Sequence[str]) -> list[str]:
    file = _config_file(argv)
    if file is not None and not file.exists():
        raise InputError(f"{file}: no such config file; start from configs/default.py")
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(_explain(argv, error)) from error


def _explain(argv: Sequence[str], error: Exception) -> str:
    """One line about a flag that could not be parsed; an unknown field gets its nearest name."""
    first = str(error).strip().strip("\"'").split("\n")[0]
    config = _default_of(argv)
    for argument in argv[1:]:
        name = re.split("=", argument.lstrip("-"), maxsplit=1)[0]
        if config is None or not name.startswith("config."):
            continue
        field, fields = name.removeprefix("config."), _field_names(config)
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"see {', '.join(config)}"
            return f"--{name}: there is no such config field; {hint}"
    return f"{first}; see configs/default.py for the fields and their types"


def _config_file(argv: Sequence[str]) -> epath.Path | None:
    named = [re.match("--?config=([^:]*)", argument) for argument in argv[1:]]
    return next((epath.Path(match[1]) for match in named if match), None)


def _default_of(argv: Sequence[str]) -> ConfigDict | None:
    """The config file that the command names, without its overrides."""
    file = _config_file(argv)
    return None if file is None else runpy.run_path(os.fspath(file))["get_config"]()


def _field_names(config: ConfigDict, above: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += _field_names(value, f"{above}{key}.")
        else:
            names.append(f"{above}{key}")
    return names
