"""Fields of a config: their full names, lists by commas, and the settings that a room owns."""

from collections.abc import Callable
from typing import Any, TypeVar

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
