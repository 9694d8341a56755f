"""Flags of a command, parsed so that a mistake is explained by what there is."""

import difflib
import json
import os
import re
import runpy
import sys
import traceback
from collections.abc import Sequence

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.commands import as_typed, config_file
from g2is_jax.pipeline.fields import config_fields, file_names, written
from g2is_jax.runs.errors import InputError

PATHS = (("model", "checkpoint"), ("data", "pool"), ("evaluate", "harness_include"))
FILES = (("data", "validation"), ("data", "test"), ("evaluate", "shots_files"))
LAUNCH = "experiments.launch"  # the module that defines what the scripts of a run share


def parse_flags(usage: str, argv: Sequence[str]) -> list[str]:
    """Parse the flags of a script without a config; a mistake names the flags that there are."""
    _write_help()
    try:
        left = flags.FLAGS(list(argv))
    except flags.Error as error:
        raise InputError(f"{_one_line(error)}; the flags are {usage}") from error
    if len(left) > 1:
        raise InputError(f"{left[1]!r} is not a flag; the flags are {usage}")
    return left


def parse_config(argv: Sequence[str]) -> list[str]:
    """Parse the flags of a script with a config; a mistake is explained by what the config has.

    A config that is shipped may be named without its folder and suffix."""
    _write_help()
    argv = by_file(argv)
    config = _written_config(argv)
    try:
        left = flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(_explain(argv, config, error)) from error
    if len(left) > 1:
        raise InputError(f"{left[1]!r} is not a flag; flags look like --config.walk.delta=0.7")
    if flags.FLAGS.config is not None:
        write_out_files(flags.FLAGS.config)
    return left


def _write_help() -> None:
    """Shows in the help of a script the flags that all scripts share, and, unless it runs as
    `-m experiments.NAME`, the command `g2is`."""
    script, own = sys.modules["__main__"], flags.FLAGS
    for name in own:
        if own.find_module_defining_flag(name) == LAUNCH:
            own.register_key_flag_for_module(sys.argv[0], own[name])
    if not any(argument.startswith("experiments.") for argument in sys.orig_argv):
        script.__doc__ = as_typed(script.__doc__ or "")


def by_file(argv: Sequence[str]) -> list[str]:
    """The arguments with the file of a config in the place of its name."""
    found = list(argv)
    for place, argument in enumerate(found):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") != "config" or flag == "config":
            continue
        if equals:
            found[place] = f"{flag}={config_file(value)}"
        elif place + 1 < len(found):
            found[place + 1] = config_file(found[place + 1])
    return found


def started_with(workdir: epath.Path, config: ConfigDict) -> ConfigDict:
    """Returns the config with the values of the one that the work folder was started with.

    It takes that one's place (`run.replace`): it has the fields that came with later editions too.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; give --config, or the --workdir of a run")
    try:
        config.update(json.loads(file.read_text()))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file}: not a config of this edition ({reason}); give --config"
        ) from error
    config.run.replace = True
    return config


def write_out_files(config: ConfigDict) -> None:
    """Write out the names of files in a config: homes, and lists of names that stand in a file."""
    for section, field in PATHS:
        if section in config and field in config[section]:
            config[section][field] = os.path.expanduser(config[section][field])
    for section, field in FILES:
        if section in config:
            config[section][field] = written(file_names(config[section][field]))


def _explain(argv: Sequence[str], config: ConfigDict | None, error: Exception) -> str:
    """One line about a flag that could not be parsed; an unknown field gets its nearest name."""
    for argument in argv[1:]:
        name = re.split("=", argument.lstrip("-"), maxsplit=1)[0]
        if config is None or not name.startswith("config."):
            continue
        field, fields = name.removeprefix("config."), list(config_fields(config))
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"see {', '.join(config)}"
            return f"--{name}: there is no such config field; {hint}"
    way = "see configs/default.py for the fields and their types"
    if isinstance(error, flags.UnrecognizedFlagError):
        way = "--help lists the flags"
    return f"{_one_line(error)}; {way}"


def _written_config(argv: Sequence[str]) -> ConfigDict | None:
    """The config that the command names (file, or file:argument), without its overrides.

    None if it names none.
    """
    named = re.search("(?:^|\n)--?config[=\n]([^:\n]+)(?::(.*))?", "\n".join(argv[1:]))
    if named is None:
        return None
    file, argument = named.groups()
    if not os.path.isfile(file):
        raise InputError(f"{file}: no such config file; start from configs/default.py")
    try:
        get_config = runpy.run_path(file)["get_config"]
        return get_config() if argument is None else get_config(argument)
    except InputError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f"{file}:{lines[-1]}" if lines else file
        raise InputError(
            f"{place}: {type(error).__name__}: {_one_line(error)}; "
            "see configs/default.py for the fields and their types"
        ) from error


def _one_line(error: Exception) -> str:
    """An error's message, without the line breaks and the quotes that KeyError puts around it."""
    text = str(error).strip()
    if text[:1] in ("'", '"') and text[:1] == text[-1:]:
        text = text[1:-1].replace("\\'", "'").replace("\\n", "\n")
    return " ".join(text.split())
