"""All stages, for a list of methods and seeds: from pool and checkpoint to the table of scores.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

The cost of that, estimated before anything is done, in a line for each chip of the table, or by
stage for one of them:

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo \\
        --dry_run --chip=v5e --devices=8
"""

from absl import flags

from experiments.launch import launch
from g2is_jax.pipeline.whole_run import run
from g2is_jax.planning import dry_run


def main() -> None:
    """Parse the flags and run, or print what the run will cost."""
    dry = flags.DEFINE_boolean("dry_run", False, "Print what the run will cost, and end.")
    names = ", ".join(dry_run.NAMES)
    chip = flags.DEFINE_string(
        "chip", None, f"Of a dry run: {names}. Without it, as with all: a line for each chip."
    )
    devices = flags.DEFINE_integer("devices", None, "Of a dry run: chips; 1 without it.")
    launch(run, lambda config: dry_run.instead(config, dry.value, chip.value, devices.value))


if __name__ == "__main__":
    main()
