"""The scores of a run that are finished so far, as lines of a file that outlives the work folder.

    python -m experiments.keep_scores --config=configs/language_models.py --workdir=runs/smollm2 \\
        --scores=docs/scores/smollm2.jsonl

Lines of other methods, targets and seeds stay in the file. experiments.compare_scores reads it.
"""

from absl import flags

from experiments.launch import launch
from g2is_jax.pipeline import kept_scores
from g2is_jax.runs.storage import path_of


def main() -> None:
    """Parse the flags and write; a user's mistake ends in one line."""
    scores = flags.DEFINE_string("scores", None, "File of scores, a line each.", required=True)

    def keep(config, workdir):
        count = kept_scores.run(config, workdir, path_of(scores.value))
        print(f"{scores.value}: {count} finished scores of {workdir}")

    launch(keep)


if __name__ == "__main__":
    main()
