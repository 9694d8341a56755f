"""Fields of a config: their full names, lists by commas, and the settings that a room owns."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import file_stem
from g2is_jax.data.hub_sets import Place
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.workdir import flat_fields

BUILT_IN = "skills"  # as model.checkpoint the built-in base, as data.pool the built-in world
Owned = TypeVar("Owned")


def config_fields(config: ConfigDict) -> dict[str, Any]:
    """Every field of a config under its full name: `walk.delta`."""
    return flat_fields(config.to_dict())


def owned(kind: Callable[..., Owned], section, name: str) -> Owned:
    """The frozen settings that a room owns, from the section of the config of the same fields.

    A room names a field bare or by its own section; the message here has the field's full name.
    """
    try:
        return kind(**section)
    except TypeError as error:
        raise InputError(
            f"config section {name}: {error}; compare it with configs/default.py"
        ) from error
    except InputError as error:
        bare = str(error).removeprefix(name.rpartition(".")[2] + ".")
        raise InputError(f"{name}.{bare}") from error


def part_of(kind: type[Owned], section: ConfigDict, name: str) -> Owned:
    """The frozen settings that a room owns, from a section that has fields for others too."""
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]  # every settings class is one
    return owned(kind, {field: section[field] for field in fields}, name)


def parts(text: str) -> tuple[str, ...]:
    """The parts of a field that names some by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def file_names(text: str) -> tuple[str, ...]:
    """The files that a field names, with `~` as the home folder: by commas, or, where a name has a
    comma, as a JSON list, or after @ in a file with a name a line. InputError says what is wrong.
    """
    if text.startswith("["):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise InputError(
                f'{text}: no JSON list of files ({error}); write ["a.jsonl"]'
            ) from error
        if not all(isinstance(name, str) for name in names):
            raise InputError(f'{text}: not a list of names of files; write ["a.jsonl"]')
    elif text.startswith("@"):
        names = _lines(text[1:])
    else:
        names = text.split(",")
    return tuple(os.path.expanduser(name.strip()) for name in names)


def _lines(name: str) -> list[str]:
    file = epath.Path(os.path.expanduser(name))
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{name}: cannot be read as a list of files, a name a line ({error}); check the path"
        ) from error


def written(names: Iterable[str]) -> str:
    """The text that `file_names` reads as these names."""
    names = list(names)
    plain = not any("," in name or name.startswith(("[", "@")) for name in names)
    return ",".join(names) if plain else json.dumps(names)


def listed(text: str, field: str) -> tuple[str, ...]:
    """The parts of a field that must name at least one, and none twice."""
    named = parts(text)
    if not named:
        raise InputError(f"{field} is empty; give at least one, separated by commas")
    if len(set(named)) < len(named):
        raise InputError(f"{field} = {text!r} names one twice; name each once")
    return named


def target_name(validation: Place) -> str:
    """The name of a target: that of its validation file, without `val_`."""
    stem = file_stem(validation)
    return stem.removeprefix("validation_").removeprefix("val_")
