"""Selections as other trainers read them, from their files of lines and reasons.

Each format gets a folder of its own name within that of the selection. A reply that is not learned
stays so where the format has a mark for that; where it has none, a line says so.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import Record, read_records
from g2is_jax.data.messages import Message
from g2is_jax.data.optional import import_optional
from g2is_jax.data.row_fields import read_columns
from g2is_jax.pipeline.fields import listed
from g2is_jax.pipeline.selection_files import LINES, SHOWN, WHY, read_why
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.methods import choosers

REASONS = ("id", "source", "order", "component", "reason", "score")  # columns beside the messages
AXOLOTL = """\
datasets:
  - path: {file}
    ds_type: json
    type: chat_template
    field_messages: messages
    message_property_mappings:
      role: role
      content: content
    roles_to_train: ["assistant"]
    train_on_eos: turn
"""


@dataclass(frozen=True)
class Format:
    """A trainer's way to have rows: its writer, and the field of a turn that says what is learned.

    write: (folder, name of the selection, rows, whether turns are marked).
    ends_in_reply: a question that nobody answers may not stand at the end.
    """

    write: Callable[[epath.Path, str, list[dict], bool], None]
    mark: str | None = None
    ends_in_reply: bool = False


def _write_lines(folder: epath.Path, name: str, rows: list[dict], marked: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(folder / f"{name}.jsonl", "".join(lines))


def _write_llamafactory(folder: epath.Path, name: str, rows: list[dict], marked: bool) -> None:
    """Writes the rows and `dataset_info.json`; `dataset_dir` of a training is the folder."""
    _write_lines(folder, name, rows, marked)
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {f"{role}_tag": role for role in ("user", "assistant", "system")}
    info = {
        "file_name": f"{name}.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": tags,
    }
    write_atomic(folder / "dataset_info.json", json.dumps({name: info}, indent=2) + "\n")


def _write_axolotl(folder: epath.Path, name: str, rows: list[dict], marked: bool) -> None:
    """Writes the rows and the part of a config that reads them."""
    _write_lines(folder, name, rows, marked)
    text = AXOLOTL.format(file=json.dumps(str(folder / f"{name}.jsonl")))
    text += "    message_field_training: train\n" if marked else ""
    write_atomic(folder / "axolotl.yaml", text)


def _write_dataset(folder: epath.Path, name: str, rows: list[dict], marked: bool) -> None:
    """Writes a saved data set, for `datasets.load_from_disk`."""
    _datasets().Dataset.from_list(rows).save_to_disk(str(folder / name))


FORMATS = {
    "llamafactory": Format(_write_llamafactory, ends_in_reply=True),
    "trl": Format(_write_lines),
    "openai": Format(_write_lines, mark="weight"),
    "axolotl": Format(_write_axolotl, mark="train"),
    "datasets": Format(_write_dataset, mark="weight"),
}


def read_formats(text: str) -> tuple[str, ...]:
    """Reads names of formats, by commas; InputError where one is unknown or cannot be written."""
    formats = listed(text, "--export") if text else ()
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"--export: {name!r} is unknown; choose from {', '.join(FORMATS)}")
    if "datasets" in formats:
        _datasets()
    return formats


def print_exports(
    config: ConfigDict, workdir: epath.Path, formats: Sequence[str], reasons: bool
) -> None:
    """Export the shown selections of a config's methods and seeds, and print a line for each."""
    if not is_first():
        return
    for method in choosers(read_selection(config).methods):
        for seed in listed(config.run.seeds, "run.seeds"):
            place = workdir / SHOWN / f"{method}-{seed}"
            for file in (place / LINES, *sorted(place.glob(f"*/{LINES}"))):
                if formats and file.exists():
                    asked = (formats, reasons, config.data.columns)
                    print("\n".join(export_selection(file.parent, *asked)))


def export_selection(
    folder: epath.Path, formats: Sequence[str], reasons: bool, columns: str
) -> list[str]:
    """Export the selection in a folder; returns the lines that say what was written, and what lost.

    reasons: whether each row has the columns REASONS. columns: `data.columns` of the run.
    """
    if not (folder / LINES).exists():
        raise InputError(f"{folder}: no {LINES} here; give the folder of a selection")
    records = read_records(folder / LINES, columns=read_columns(columns))
    why = read_why(folder) if reasons else [{}] * len(records)
    if len(why) != len(records):
        raise InputError(
            f"{folder}: {len(records)} rows in {LINES} and {len(why)} in {WHY}; select again"
        )
    known = [{name: row[name] for name in REASONS if name in row} for row in why]
    lines = []
    for chosen in formats:
        make_folder(folder / chosen)
        lines += _export(folder / chosen, chosen, _name(folder), records, known)
    return lines


def _name(folder: epath.Path) -> str:
    """The name of a selection: its method and seed, with its target where it is one of several."""
    of_target = folder.parent.parent.name == SHOWN
    return f"{folder.parent.name}-{folder.name}" if of_target else folder.name


def _export(
    place: epath.Path, chosen: str, name: str, records: list[Record], known: list[dict]
) -> list[str]:
    """Write the rows in one format; returns the lines on what was written and what is lost."""
    form = FORMATS[chosen]
    unlearned = sum(not turn.learned for record in records for turn in record.messages)
    talks = [list(record.messages) for record in records]
    cut = 0
    for talk in talks:
        if form.ends_in_reply and talk[-1].role == "user":
            cut += 1
            talk.pop()
    mark = form.mark if unlearned else None
    rows = [
        {"messages": [_turn(message, mark) for message in talk], **more}
        for talk, more in zip(talks, known, strict=True)
    ]
    form.write(place, name, rows, mark is not None)
    lines = [f"{place}: {len(rows):,} rows for {chosen}"]
    if unlearned and form.mark is None:
        lines.append(
            f"{place}: {unlearned:,} replies that were not learned are learned there: the format "
            "has no mark for them; axolotl, openai and datasets have"
        )
    if cut:
        lines.append(f"{place}: {cut:,} last questions without a reply are left out")
    return lines


def _turn(message: Message, mark: str | None) -> dict:
    turn: dict = {"role": message.role, "content": message.content}
    learned = message.role == "assistant" and message.learned
    if mark == "train":
        turn[mark] = learned
    elif mark == "weight" and message.role == "assistant":
        turn[mark] = int(learned)
    return turn


def _datasets() -> Any:
    datasets = import_optional("datasets", "--export=datasets")
    datasets.disable_progress_bars()
    return datasets
