"""Merges an adapter into its base: a checkpoint in Hugging Face layout, for any inference engine.

python -m experiments.merge_adapter --checkpoint=FOLDER --adapter=FOLDER --output=FOLDER
"""

import functools

import jax
from absl import flags
from etils import epath

from experiments.launch import run_or_tell
from g2is_jax.model.adapters import read_adapter, read_lora_config
from g2is_jax.model.build import DTYPES, ModelConfig, load_model
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import match_report
from g2is_jax.model.merge import write_merged
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import naming_failures

USAGE = "--checkpoint=FOLDER --adapter=FOLDER --output=FOLDER"


def run(checkpoint: str, adapter: epath.Path, output: epath.Path, dtype: str) -> str:
    """Merge, and say what was merged; InputError if there is already something at `output`."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: is not empty; give another --output, or delete it")
    lora = read_lora_config(adapter)
    source = resolve_checkpoint(checkpoint, None)
    model, base = load_model(
        source, lora, ModelConfig(dtype, dtype, "xla", remat=False, shard_base=False)
    )
    leaves = read_adapter(adapter, model)
    with naming_failures(output):
        write_merged(output, source, model, leaves, base)
    return match_report(lora, model.base_shapes)


def main() -> None:
    """Parse the flags and merge on the host; a user's mistake ends in one line."""
    text = flags.DEFINE_string
    checkpoint = text("checkpoint", None, "Hugging Face folder or hub id of the base.")
    adapter = text("adapter", None, "Folder of the adapter, as PEFT or a fine-tune writes it.")
    output = text("output", None, "Folder to write.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", list(DTYPES), "Of the weights written.")
    flags.mark_flags_as_required([checkpoint, adapter, output])
    jax.config.update("jax_platforms", "cpu")

    def merge(_) -> None:
        place, target = epath.Path(adapter.value), epath.Path(output.value)
        print(run(str(checkpoint.value), place, target, str(dtype.value)))

    run_or_tell(merge, functools.partial(parse_flags, USAGE))


if __name__ == "__main__":
    main()
