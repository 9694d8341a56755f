"""Writes a finished selection as other trainers read it.

    python -m experiments.export_selection --selection=runs/demo/selections/g2is-0 \\
        --export=llamafactory,trl,openai,axolotl,datasets --export_reasons

`select_subset` and `run_all` take --export and --export_reasons too.
"""

import functools

from absl import flags

from experiments.launch import run_or_explain
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.pipeline.export import FORMATS, export_selection, read_formats
from g2is_jax.runs.storage import path_of

USAGE = "--selection=FOLDER --export=FORMATS, --export_reasons, --columns"


def main() -> None:
    """Parse the flags and export; a user's mistake ends in one line."""
    selection = flags.DEFINE_string("selection", None, "Folder with selected.jsonl.")
    formats = flags.DEFINE_string("export", None, f"By commas: {', '.join(FORMATS)}.")
    reasons = flags.DEFINE_bool("export_reasons", False, "Columns of reason and score.")
    columns = flags.DEFINE_string("columns", "", "The data.columns of the run.")
    flags.mark_flags_as_required([selection, formats])

    def export(_) -> None:
        named, place = read_formats(str(formats.value)), path_of(selection.value)
        asked = (bool(reasons.value), str(columns.value))
        print("\n".join(export_selection(place, named, *asked)))

    run_or_explain(export, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
