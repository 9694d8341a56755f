"""Tables of kept scores: every method on every target, `g2is` against each, and shared rows.

    python -m experiments.compare_scores --scores=docs/scores/smollm2.jsonl
    python -m experiments.compare_scores --scores=docs/scores/smollm2.jsonl \\
        --others=docs/scores/gemma3.jsonl

With --others also which rows a method chose in both, and the same tables of these.
"""

import functools

from absl import flags

from experiments.launch import run_or_explain
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.pipeline.kept_scores import read_scores
from g2is_jax.report.page.markdown import table_lines
from g2is_jax.report.scores_compared import against_all, overview, shared_rows
from g2is_jax.runs.storage import path_of

USAGE = "--scores=FILE, and --others=FILE, --metric=NAME, --subject=METHOD"


def main() -> None:
    """Parse the flags and print; a user's mistake ends in one line."""
    own = flags.DEFINE_string("scores", None, "File of scores.", required=True)
    others = flags.DEFINE_string("others", None, "Another one, of the same pool.")
    metric = flags.DEFINE_string("metric", "answer_loss", "Which metric.")
    subject = flags.DEFINE_string("subject", "g2is", "The method that is compared with each.")

    def compare(_) -> None:
        read = [read_scores(path_of(name)) for name in (own.value, others.value) if name]
        tables = []
        for scores in read:
            tables.append(overview(scores, metric.value))
            tables.append(against_all(scores, metric.value, subject.value))
        if others.value:
            tables.append(shared_rows(*read))
        filled = (table_lines(table) for table in tables if table.body)
        print("\n\n".join("\n".join(lines) for lines in filled))

    run_or_explain(compare, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
