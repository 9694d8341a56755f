"""Selection: the rows of the pool that a method chooses for a target within the budget.

    python -m experiments.select_subset --config=configs/tiny.py --workdir=runs/demo

Features that were made elsewhere need neither model nor checkpoint:

    python -m experiments.select_subset --config=configs/paper.py --workdir=OUT \\
        --train_features=F.npy --validation_features=V.npy --pool=pool.jsonl

With --export=llamafactory,trl,openai,axolotl,datasets the rows are also written as those read them.
"""

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments.launch import launch
from g2is_jax.pipeline import own_features
from g2is_jax.pipeline.export import FORMATS, export_selection, print_exports, read_formats
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import path_of


def main() -> None:
    """Parse the flags and choose, from stages or from features that were made elsewhere."""
    train = flags.DEFINE_string("train_features", None, "Own features of the pool (N, P).")
    validation = flags.DEFINE_string("validation_features", None, "Own features (M, P).")
    pool = flags.DEFINE_string("pool", None, "With own features: the pool's .jsonl file.")
    written = flags.DEFINE_string("export", "", f"Also as {', '.join(FORMATS)}; by commas.")
    reasons = flags.DEFINE_bool("export_reasons", False, "There with reason and score.")

    def choose(config: ConfigDict, workdir: epath.Path) -> None:
        formats = read_formats(str(written.value))
        files = {"train_features": train, "validation_features": validation, "pool": pool}
        named = {name: path_of(flag.value) for name, flag in files.items() if flag.value}
        if not named:
            from g2is_jax.pipeline import selection_stage  # late: own features need no model

            selection_stage.run(config, workdir)
            print_exports(config, workdir, formats, bool(reasons.value))
            return
        missing = [name for name in ("train_features", "validation_features") if name not in named]
        if missing:
            raise InputError(
                f"--{missing[0]} is missing; own features need --train_features and "
                "--validation_features, and --pool is read with them alone"
            )
        if formats and not pool.value:
            raise InputError("--export writes rows; with own features name their file by --pool")
        folders = own_features.run(config, workdir, **named)
        for folder in folders if formats else ():
            asked = (formats, bool(reasons.value), config.data.columns)
            print("\n".join(export_selection(folder, *asked)))

    launch(choose)


if __name__ == "__main__":
    main()
