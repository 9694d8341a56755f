"""The two files of a selection: why each row was chosen, and the rows as they stand in the pool."""

import dataclasses
import json
from collections.abc import Callable, Sequence

from etils import epath

from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.budget import Pick, Selection

WHY, LINES = "selection.jsonl", "selected.jsonl"
SHOWN = "selections"  # folder of the copies for people, in a work folder


def write_why(folder: epath.Path, selection: Selection, known: Callable[[int], dict]) -> None:
    """Write an object for each chosen row, in order: its known fields, then how it was chosen.

    `row` counts the rows of the pool's file from 0; `position` counts the rows to choose from.
    """
    lines = []
    for pick in selection.picks:
        chosen = {"position": pick.row}
        chosen |= {key: value for key, value in vars(pick).items() if key != "row"}
        lines.append(json.dumps(known(pick.row) | chosen) + "\n")
    write_atomic(folder / WHY, "".join(lines))


def write_lines(folder: epath.Path, selection: Selection, lines: Sequence[bytes]) -> None:
    """Write the chosen rows, each as it stands in the pool's file."""
    write_atomic(folder / LINES, b"".join(lines[pick.row] + b"\n" for pick in selection.picks))


def read_why(folder: epath.Path) -> list[dict]:
    """The objects that `write_why` wrote."""
    return [json.loads(line) for line in (folder / WHY).read_text().splitlines()]


def read_picks(folder: epath.Path) -> list[Pick]:
    """The picks that `write_why` wrote."""
    names = [field.name for field in dataclasses.fields(Pick) if field.name != "row"]
    lines = read_why(folder)
    return [Pick(row=line["position"], **{name: line[name] for name in names}) for line in lines]


def show(folder: epath.Path, place: epath.Path) -> None:
    """Copy a selection's files to where people look for them, in place of an earlier one's."""
    make_folder(place)
    for name in (WHY, LINES):
        if (folder / name).exists():
            write_atomic(place / name, (folder / name).read_bytes())
        else:
            (place / name).unlink(missing_ok=True)
