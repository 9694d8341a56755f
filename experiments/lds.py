"""Which feature of a row predicts what training on it does: linear datamodelling scores.

    python -m experiments.lds --config=configs/tiny.py --workdir=runs/lds --subsets=40

Trains an adapter on each of --subsets random subsets of the pool, measures the loss on each of the
targets' validation rows (--config.data.validation), and correlates it with the sum of the subset's
scores: cosines of the features of --sweep (an entry of configs/sweeps.py), of hidden states and of
prompts, BM25, and the number of tokens. Whatever is finished in the work folder is reused, so a run
that was killed goes on. The table is in `lds/`.
"""

from absl import flags

from configs.sweeps import SWEEPS
from experiments.launch import launch
from g2is_jax.pipeline.lds import run


def main() -> None:
    """Parse the flags and measure; a user's mistake ends in one line."""
    sweep = flags.DEFINE_string("sweep", "features", "Name of an entry of configs/sweeps.py.")
    subsets = flags.DEFINE_integer("subsets", 40, "Random subsets of the pool.")
    share = flags.DEFINE_float("share", 0.5, "Of the pool's rows, in each subset.")
    launch(
        lambda config, workdir: run(
            config, workdir, SWEEPS, sweep.value, subsets.value, share.value
        )
    )


if __name__ == "__main__":
    main()
