"""Writes the table of docs/reproduce.md anew: command, published figure and hours of each row.

python -m docs.reproduce_table --page=docs/reproduce.md
"""

import functools
import itertools

from absl import flags
from etils import epath

from configs import reproduce
from experiments.launch import run_or_explain
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.planning.reproduce_table import replace_table, reproduce_table

USAGE = "--page=FILE"
# Each model and target on the pool of the published figures, and the rows that a note has of CoT.
ROWS = [(*row, "infinity") for row in itertools.product(reproduce.MODELS, reproduce.TARGETS)]
ROWS += [("llama31_8b", target, "cot") for target in reproduce.TARGETS]
ARGUMENTS = [f"model={model},target={target},pool={pool}" for model, target, pool in ROWS]
CONFIGS = {argument: reproduce.get_config(argument) for argument in ARGUMENTS}
ON_SLICE = {argument: reproduce.get_config(f"{argument},chips=v5e_8") for argument in ARGUMENTS}


def main() -> None:
    """Parse the flags and replace the page's table; a user's mistake ends in one line."""
    page = flags.DEFINE_string("page", None, "Markdown file with one table, to write.")
    flags.mark_flag_as_required("page")

    def write(_) -> None:
        file = epath.Path(str(page.value))
        file.write_text(replace_table(file.read_text(), reproduce_table(CONFIGS, ON_SLICE)))

    run_or_explain(write, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
