"""One more target for a work folder whose pool was passed over: its features are not made again.

    python -m experiments.add_target --workdir=runs/mine --validation=val_new.jsonl \\
        --test=test_new.jsonl

Takes the config of the work folder, unless --config gives one, with the target added to those that
it has; every stage that is there is reused. The page then compares all of them. Without --test, in
a folder whose targets have none either, rows are selected and nothing is trained on.
"""

from absl import flags

from experiments.launch import launch
from g2is_jax.pipeline.added_target import run


def main() -> None:
    """Parse the flags and run; a user's mistake ends in one line."""
    validation = flags.DEFINE_string("validation", None, "File of the target.", required=True)
    test = flags.DEFINE_string("test", "", "File of rows to measure with.")
    task = flags.DEFINE_string("task", "", "How these are measured, as in evaluate.tasks.")

    def add(config, workdir):
        run(config, workdir, validation.value or "", test.value or "", task.value or "")

    launch(add, needs_config=False)


if __name__ == "__main__":
    main()
