"""The cost of a run on a chip, in hours and memory, estimated without any file: a table by stage.

    python -m experiments.estimate --config=configs/reproduce.py:model=llama31_8b,target=gsm8k \\
        --chip=h100 --devices=1 --pool_rows=100000 --mean_tokens=512 --validation_rows=100 \\
        --test_rows=1319

Shapes are enough: no weights, no tokenizer, no accelerator. Rows without a flag are counted in the
config's files; without --mean_tokens every row counts as long as model.max_length, and each reply
as long as evaluate.new_tokens. Nothing is measured: hours are those of the chip's published numbers
at an assumed utilisation. Where the files are there, `run_all --dry_run` counts and measures the
rows.
"""

from absl import flags
from ml_collections import config_flags

from experiments.launch import run_or_explain
from g2is_jax.pipeline.command_line import parse_config
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.cost_table import ALL, UTILISATION
from g2is_jax.planning.estimate import run
from g2is_jax.planning.plan import Sizes


def main() -> None:
    """Parse the flags and print the table; a user's mistake ends in one line."""
    config = config_flags.DEFINE_config_file("config", lock_config=True)
    chips = [*CHIPS, ALL]
    chip = flags.DEFINE_enum("chip", None, chips, "Of published numbers.", required=True)
    devices = flags.DEFINE_integer("devices", None, "Chips.", lower_bound=1, required=True)
    share = flags.DEFINE_float("utilisation", UTILISATION, "Assumed.", 0.01, 1.0)
    sizes = {
        field: flags.DEFINE_integer(field, None, Sizes.__doc__)
        for field in Sizes.__dataclass_fields__
    }
    flags.mark_flag_as_required("config")

    def report(_) -> None:
        asked = {field: flag.value for field, flag in sizes.items()}
        print(run(config.value, chip.value, devices.value, share.value, asked))

    run_or_explain(report, parse_config)


if __name__ == "__main__":
    main()
