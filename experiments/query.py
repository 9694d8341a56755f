"""Which rows of a pool pull towards a reply, or against it, by their gradients.

    python -m experiments.query --workdir=runs/demo --prompt="sort: 3 1 2" --reply="1 2 3"
    python -m experiments.query --workdir=runs/demo --rows=failures.jsonl --count=20
    python -m experiments.query --workdir=runs/demo --pool_row=ID
    python -m experiments.query --workdir=runs/demo --duplicates=0.98

Needs a work folder whose pool features are finished, and takes the config that it has, unless
--config gives one. Prints the rows with text, source, cosine and supervised tokens; the same as a
page and as JSON are in `queries/`. --duplicates: pairs of pool rows at least so similar, of the
nearest 100 rows of each.
"""

from absl import flags

from experiments.launch import launch
from g2is_jax.pipeline.query import Question, run


def main() -> None:
    """Parse the flags and answer; a user's mistake ends in one line."""
    rows = flags.DEFINE_string("rows", "", "File of rows, such as failures.")
    prompt = flags.DEFINE_string("prompt", "", "A prompt, with --reply.")
    reply = flags.DEFINE_string("reply", "", "The reply that is wanted.")
    pool_row = flags.DEFINE_string("pool_row", "", "The id of a row of the pool.")
    duplicates = flags.DEFINE_float("duplicates", None, "Least cosine of two pool rows.")
    count = flags.DEFINE_integer("count", 10, "Rows in each list.")

    def ask(config, workdir):
        asked = (rows.value, prompt.value, reply.value, pool_row.value)
        return run(config, workdir, Question(*asked, duplicates.value, count.value))

    launch(ask, needs_config=False)


if __name__ == "__main__":
    main()
