"""Merges an adapter into its base: a checkpoint that any reader of Hugging Face folders takes."""

import numpy as np
from etils import epath

from g2is_jax.model.adapters import read_adapter, read_lora_config
from g2is_jax.model.build import Model, ModelConfig, load_model
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import Leaves, match_report
from g2is_jax.model.weight_files import TEXTS
from g2is_jax.model.weights import SHARD_BYTES, write_checkpoint
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, naming_failures, write_atomic

# `config.json` is written anew, and transformers would attach the adapter of the other.
NOT_COPIED = ("config.json", "adapter_config.json")


def merge_folders(checkpoint: str, adapter: epath.Path, output: epath.Path, dtype: str) -> str:
    """Merges the adapter of one folder into a checkpoint; returns a line on the merged layers.

    checkpoint: a folder or hub id. dtype: the base's and the output's, a key of DTYPES. InputError
    if there is already something at `output`.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: is not empty; give another --output, or delete it")
    lora = read_lora_config(adapter)
    source = resolve_checkpoint(checkpoint, None)
    model, base = load_model(
        source, lora, ModelConfig(dtype, dtype, "blocks", remat=False, shard_base=False, scan=False)
    )
    leaves = read_adapter(adapter, model)
    with naming_failures(output):
        write_merged(output, source, model, leaves, base)
    return match_report(lora, model.base_shapes)


def write_merged(
    target: epath.Path,
    source: epath.Path,
    model: Model,
    adapter: Leaves,
    base: Leaves,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes W + scale B A in place of each W, in the base's dtype, and all else as in `source`.

    The sum is computed in float32 on the host, one tensor at a time; `config.json` is written last.
    """

    def produce(path: str) -> np.ndarray:
        weight = np.asarray(model.base_layout.take(base, path))
        layer = path.removesuffix(".weight")
        if f"{layer}.lora_A" not in model.adapter_shapes:
            return weight
        a_RD, b_DR = (
            np.asarray(model.adapter_layout.take(adapter, f"{layer}.{name}"))
            for name in ("lora_A", "lora_B")
        )
        product_DD = b_DR @ a_RD
        product_DD *= np.float32(model.lora.scale)
        product_DD += weight
        return product_DD

    make_folder(target)
    for file in source.iterdir():
        if file.suffix in TEXTS and file.name not in NOT_COPIED and ".index" not in file.suffixes:
            write_atomic(target / file.name, file.read_bytes())
    raw = read_raw_config(source)
    if "lm_head" in model.base_shapes and raw.get("tie_word_embeddings"):
        raw["tie_word_embeddings"] = False  # else its readers may drop the head
    write_checkpoint(target, raw, model.base_shapes, produce, model.dtype, shard_bytes)
