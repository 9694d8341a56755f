"""A sweep over settings: what each of them selects, from stages that are made once.

    python -m experiments.ablate --config=configs/tiny.py --workdir=runs/demo --sweep=delta

Sweeps are entries of configs/sweeps.py. The methods are those of `run.methods` that read a field of
the sweep. Whatever is finished in the work folder is reused, so a sweep that was killed goes on;
the table, the plot and all overlaps are in `sweeps/NAME/`. With --finetune each selection is also
trained on and evaluated, and compared with those of the methods of `run.methods` that read none of
the sweep's fields, paired by seed.
"""

from absl import flags

from configs.sweeps import SWEEPS
from experiments.launch import launch
from g2is_jax.pipeline.sweeps import run


def main() -> None:
    """Parse the flags and sweep; a user's mistake ends in one line."""
    sweep = flags.DEFINE_string("sweep", None, "Name of an entry of configs/sweeps.py.")
    finetune = flags.DEFINE_bool("finetune", False, "Also train on each selection and evaluate.")
    flags.mark_flag_as_required("sweep")
    launch(lambda config, workdir: run(config, workdir, SWEEPS, sweep.value or "", finetune.value))


if __name__ == "__main__":
    main()
