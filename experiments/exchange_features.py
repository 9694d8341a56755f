"""Turns a feature matrix of another program into a store, and a store into a file for others.

python -m experiments.exchange_features --source=FILE --destination=FOLDER
python -m experiments.exchange_features --source=FOLDER --destination=FILE

FILE is a .npy, .safetensors or .pt file; FOLDER holds a store.json, as a features stage does.
"""

import functools

from absl import flags
from etils import epath

from experiments.launch import run_or_explain
from g2is_jax.features.exchange import export_features, import_features
from g2is_jax.features.rows import STORED
from g2is_jax.features.store import SETTINGS, StoreConfig
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import path_of

USAGE = "--source=FILE --destination=FOLDER (or the other way round), --dtype, --chunk_rows"


def run(source: epath.Path, destination: epath.Path, config: StoreConfig) -> str:
    """Export a store or import a file, and say what was written; `config` is of a store written."""
    if not source.is_dir():
        done = import_features(source, destination, config)
    elif (source / SETTINGS).exists():
        done = export_features(source, destination)
    else:
        raise InputError(f"{source}: no {SETTINGS} here; --source must be a store or a file")
    return f"{destination}: {done.rows} rows of {done.width}, {done.not_finite} of them not finite"


def main() -> None:
    """Parse the flags and exchange; a user's mistake ends in one line."""
    source = flags.DEFINE_string("source", None, "Store folder, or file, to read.")
    destination = flags.DEFINE_string("destination", None, "File, or store folder, to write.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", list(STORED), "Of a store written.")
    rows = flags.DEFINE_integer("chunk_rows", 1024, "Of a store written.", lower_bound=1)
    flags.mark_flags_as_required([source, destination])

    def exchange(_) -> None:
        config = StoreConfig(dtype.value, rows.value)
        print(run(path_of(source.value), path_of(destination.value), config))

    run_or_explain(exchange, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
