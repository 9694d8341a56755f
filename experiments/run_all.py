"""All stages, for a list of methods and seeds: from pool and checkpoint to the table of scores.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

The cost of that, estimated before anything is done, in a line for each chip of the table, or by
stage for one of them. Where `jax[tpu]` is installed, the run's programs are then compiled for the
slice (not with --nocompile): seconds, bytes, collectives, whether they fit.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo \\
        --dry_run --chip=v5e --devices=8 --overrides=largest.flags
"""

from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments.launch import launch
from g2is_jax.pipeline.export import FORMATS, print_exports, read_formats
from g2is_jax.pipeline.whole_run import run
from g2is_jax.planning import dry_run


def main() -> None:
    """Parse the flags and run, or print what the run will cost."""
    names = ", ".join(dry_run.NAMES)
    dry = flags.DEFINE_boolean("dry_run", False, "Print what the run will cost, and end.")
    asked = {
        "chip": flags.DEFINE_string("chip", None, f"Of a dry run: {names}; else a line for each."),
        "devices": flags.DEFINE_integer("devices", None, "Of a dry run: chips; 1 without it."),
        "topology": flags.DEFINE_string("topology", None, "Of a dry run: a slice, as v5e:4x4."),
        "compile": flags.DEFINE_boolean("compile", True, "In a dry run, for a slice."),
        "largest": flags.DEFINE_boolean("largest", False, "So: the largest batches that fit."),
        "overrides": flags.DEFINE_string("overrides", None, "So: a file for these, as flags."),
    }

    written = flags.DEFINE_string("export", "", f"Selections also as {', '.join(FORMATS)}.")
    reasons = flags.DEFINE_bool("export_reasons", False, "There with reason and score.")

    def run_and_export(config: ConfigDict, workdir: epath.Path) -> None:
        formats = read_formats(str(written.value))
        run(config, workdir)
        print_exports(config, workdir, formats, bool(reasons.value))

    def instead(config: ConfigDict) -> bool:
        values: dict[str, Any] = {name: flag.value for name, flag in asked.items()}
        return dry_run.instead(config, dry.value, dry_run.Asked(**values))

    launch(run_and_export, instead)


if __name__ == "__main__":
    main()
