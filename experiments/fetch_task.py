"""Writes a benchmark's rows from the Hugging Face hub as val_TASK.jsonl and test_TASK.jsonl.

python -m experiments.fetch_task --task=gsm8k --destination=DIR
"""

import functools

from absl import flags

from experiments.launch import run_or_explain
from g2is_jax.evaluation.tasks.hub_tasks import PARTS, fetch_task, load_from_hub
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.runs.storage import path_of

USAGE = "--task=TASK --destination=DIR"


def main() -> None:
    """Parse the flags and fetch; a user's mistake ends in one line."""
    task = flags.DEFINE_enum("task", None, list(PARTS), "Benchmark to fetch.")
    destination = flags.DEFINE_string("destination", None, "Folder to write the two files to.")
    flags.mark_flags_as_required([task, destination])

    def fetch(_) -> None:
        print(fetch_task(str(task.value), path_of(destination.value), load_from_hub))

    run_or_explain(fetch, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
