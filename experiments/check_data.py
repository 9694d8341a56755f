"""A look into a config's files before a run: what is read, what is dropped, what is learned.

    python -m experiments.check_data --config=configs/default.py \\
        --config.model.checkpoint=path/to/hf_folder --config.data.pool=pool.jsonl

Of the pool, and of the validation, test and shots files where the config names them: shapes, bad
rows by reason, fields that are not read, tokens, sources, and three rows as the model sees them.
Ends with status 0 where all of them can be used, else with 2.
"""

import dataclasses
import json

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments.launch import run_or_explain
from g2is_jax.pipeline.check_data import check_usable, run
from g2is_jax.pipeline.command_line import parse_config
from g2is_jax.runs.storage import write_atomic


def main() -> None:
    """Parse the flags and look; a user's mistake ends in one line."""
    config = config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "That of the run: nothing is looked for or written there.")
    output = flags.DEFINE_string("output", None, "A file for all that was found, as JSON.")
    flags.mark_flag_as_required("config")

    def report(_) -> None:
        looks = run(config.value)
        if output.value:
            found = [dataclasses.asdict(look) for look in looks]
            write_atomic(epath.Path(output.value), json.dumps(found, indent=2) + "\n")
        check_usable(looks)

    run_or_explain(report, parse_config)


if __name__ == "__main__":
    main()
