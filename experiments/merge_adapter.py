"""Merges an adapter into its base: a checkpoint in Hugging Face layout, for any inference engine.

python -m experiments.merge_adapter --checkpoint=FOLDER --adapter=FOLDER --output=FOLDER
"""

import functools

import jax
from absl import flags

from experiments.launch import run_or_explain
from g2is_jax.model.build import DTYPES
from g2is_jax.model.merge import merge_folders
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.runs.storage import path_of

USAGE = "--checkpoint=FOLDER --adapter=FOLDER --output=FOLDER"


def main() -> None:
    """Parse the flags and merge on the host; a user's mistake ends in one line."""
    text = flags.DEFINE_string
    checkpoint = text("checkpoint", None, "Hugging Face folder or hub id of the base.")
    adapter = text("adapter", None, "Folder of the adapter, as PEFT or a fine-tune writes it.")
    output = text("output", None, "Folder to write.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", list(DTYPES), "Type of the weights written.")
    flags.mark_flags_as_required([checkpoint, adapter, output])
    jax.config.update("jax_platforms", "cpu")

    def merge(_) -> None:
        place, target = path_of(adapter.value), path_of(output.value)
        print(merge_folders(str(path_of(checkpoint.value)), place, target, str(dtype.value)))

    run_or_explain(merge, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
