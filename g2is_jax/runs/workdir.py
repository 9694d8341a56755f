"""The config that a work folder was started with, which the runs in it have to share."""

import json
from typing import Any

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, naming_failures, write_atomic


def claim_workdir(
    workdir: epath.PathLike,
    config: dict,
    free_fields: tuple[str, ...],
    replace: bool,
    later_fields: tuple[str, ...] = (),
) -> None:
    """Writes the config into a new work folder; refuses one that was started with another config.

    free_fields: dotted names (a name covers what lies below it) that may differ between runs.
    replace: overwrite the stored config instead of refusing.
    later_fields: full names of those that a run may leave empty, and a later one give.
    """
    folder = epath.Path(workdir)
    file = folder / "config.json"
    text = json.dumps(config, indent=2) + "\n"
    try:
        with naming_failures(file):
            make_folder(folder)
            if replace or not file.exists():
                write_atomic(file, text)
                return
            old_text = file.read_text()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used as a work folder ({error.strerror or error}); "
            "choose another --workdir"
        ) from error
    try:
        old = flat_fields(json.loads(old_text))
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{file}: not a readable config ({error}); "
            "choose another --workdir, or set run.replace to overwrite it"
        ) from error
    new = flat_fields(json.loads(text))
    differing = [
        f"{field} is {_shown(new, field)}, was {_shown(old, field)}"
        for field in sorted(old.keys() | new.keys())
        if _shown(new, field) != _shown(old, field)
        and not any(f"{field}.".startswith(f"{free}.") for free in free_fields)
        and not (field in later_fields and not (new.get(field) and old.get(field)))
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{folder}: started with another config: {'; '.join(differing[:3])}{more}; "
            "choose another --workdir, or set run.replace to overwrite it"
        )
    if any(new.get(field) and not old.get(field) for field in later_fields):
        write_atomic(file, text)


def flat_fields(config: dict, above: str = "") -> dict[str, Any]:
    """Joins the names of nested fields: {"walk": {"delta": 1}} -> {"walk.delta": 1}."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            fields |= flat_fields(value, f"{above}{key}.")
        else:
            fields[f"{above}{key}"] = value
    return fields


def _shown(flat: dict[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else "absent"
