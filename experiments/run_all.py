"""All stages, for a list of methods and seeds: from pool and checkpoint to the table of scores.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

What that takes, told before anything is done, on chips of the table (`all` for a line each):

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo \\
        --dry_run --chip=v5e --devices=8
"""

from absl import flags

from experiments.launch import launch
from g2is_jax.pipeline.whole_run import run
from g2is_jax.planning import dry_run


def main() -> None:
    """Parse the flags and run, or tell what the run will take."""
    dry = flags.DEFINE_boolean("dry_run", False, "Tell what the run will take, and end.")
    chip = flags.DEFINE_string("chip", None, f"Of a dry run: {', '.join(dry_run.NAMES)}.")
    devices = flags.DEFINE_integer("devices", None, "Of a dry run: chips.")
    launch(run, lambda config: dry_run.instead(config, dry.value, chip.value, devices.value))


if __name__ == "__main__":
    main()
