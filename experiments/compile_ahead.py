"""The programs of a run, compiled for a slice of TPU chips on a computer without any of them.

    pip install 'jax[tpu]'
    python -m experiments.compile_ahead --topology=v5e:2x4 --output=programs.json \\
        --config=configs/reproduce.py:model=llama31_8b,target=gsm8k

Tells of each program the seconds that it takes to trace and compile, the bytes that it needs on
each chip, whether they fit, and what the chips send each other: compiled, not run. With --largest
also the largest batch that fits, which --overrides writes as a file for a run's --flagfile. Shapes
are enough: no weights, no rows. The walk is compiled for --pool_rows and --directions.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags
from ml_collections import config_flags

from experiments.launch import run_or_explain
from g2is_jax.pipeline.command_line import parse_config
from g2is_jax.planning.compile_ahead import run
from g2is_jax.planning.slices.walks import PoolSize


def main() -> None:
    """Parse the flags and compile; a user's mistake ends in one line."""
    config = config_flags.DEFINE_config_file("config", lock_config=True)
    topology = flags.DEFINE_string("topology", None, "Slice, as v5e:2x4.", required=True)
    output = flags.DEFINE_string("output", None, "JSON file: a list of programs.")
    largest = flags.DEFINE_bool("largest", False, "Look for the largest batches that fit.")
    overrides = flags.DEFINE_string("overrides", None, "File of flags: these batches.")
    only = flags.DEFINE_list("programs", [], "Names of those to compile; all without it.")
    pool_rows = flags.DEFINE_integer("pool_rows", None, "Rows of the pool.", lower_bound=1)
    directions = flags.DEFINE_integer("directions", 100, "Core directions.", lower_bound=1)
    flags.mark_flag_as_required("config")

    def report(_) -> None:
        pool = PoolSize(pool_rows.value, directions.value) if pool_rows.value else None
        finds = largest.value or overrides.value is not None
        asked = (config.value, topology.value, pool, only.value, finds)
        run(*asked, output.value, overrides.value)

    run_or_explain(report, parse_config)


if __name__ == "__main__":
    main()
