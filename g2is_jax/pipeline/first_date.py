"""The date that chat templates write, which all runs in one work folder share."""

import datetime
import json

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.runs.errors import InputError


def read_date(text: str) -> datetime.date | None:
    """The date that the field data.today names, if it names one."""
    try:
        return datetime.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise InputError(f"data.today = {text!r} is no date; write it as 2026-01-31") from error


def dated(config: ConfigDict, workdir: epath.Path, is_new: bool) -> ConfigDict:
    """The config with the date of the work folder's first run, where it names none.

    is_new: whether no run has done any work in the folder yet, so that the date is today's.
    """
    if config.data.today:
        return config
    first = None if is_new else _stored(workdir)
    copy = config.copy_and_resolve_references()
    copy.data.today = first or datetime.date.today().isoformat()
    return copy


def date_line(today: datetime.date) -> str:
    """A line on the date that the chat template writes."""
    now = datetime.date.today()
    if now == today:
        return f"chat template own: writes the date, {today} for all runs in this work folder"
    return (
        f"chat template own: writes the date: {today}, that of this work folder (data.today, or "
        f"its first run), and not today's, {now}"
    )


def _stored(workdir: epath.Path) -> str | None:
    """The date in the work folder's own config; None where it has none that can be read."""
    try:
        found = json.loads((workdir / "config.json").read_text())["data"]["today"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
