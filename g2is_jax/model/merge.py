"""Adapters merged into their base: a checkpoint that any reader of Hugging Face folders takes."""

import numpy as np
from etils import epath

from g2is_jax.model.build import Model
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.lora import Leaves
from g2is_jax.model.weights import SHARD_BYTES, write_checkpoint
from g2is_jax.runs.storage import make_folder, write_atomic

TEXTS = (".json", ".jinja", ".model", ".txt")  # of tokenizer, chat template and generation
OTHERS = ("config.json", "adapter_config.json")  # transformers would attach the latter's adapter


def write_merged(
    target: epath.Path,
    source: epath.Path,
    model: Model,
    adapter: Leaves,
    base: Leaves,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write W + scale B A in place of each W, in the base's dtype, and all else as in `source`.

    The sum is float32 and on the host, one tensor at a time; `config.json` is written last.
    """

    def produce(path: str) -> np.ndarray:
        layer = path.removesuffix(".weight")
        if f"{layer}.lora_A" not in adapter:
            return np.asarray(base[path])
        a_RD, b_DR = (np.asarray(adapter[f"{layer}.{name}"]) for name in ("lora_A", "lora_B"))
        product_DD = b_DR @ a_RD
        product_DD *= np.float32(model.lora.scale)
        product_DD += np.asarray(base[path])
        return product_DD

    make_folder(target)
    for file in source.iterdir():
        if file.suffix in TEXTS and file.name not in OTHERS and ".index" not in file.suffixes:
            write_atomic(target / file.name, file.read_bytes())
    raw = read_raw_config(source)
    write_checkpoint(target, raw, model.base_shapes, produce, model.dtype, shard_bytes)
