"""Low-rank adapters: the layer, where it is attached, the leaf order, and PEFT's files."""

import fnmatch
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import write_atomic
from g2is_jax.runs.tensors import read_tensors, to_bytes

Leaves = dict[str, jax.Array]  # leaf path -> array; sorted by path, the canonical leaf order


@dataclass(frozen=True)
class LoraConfig:
    """Rank 0 attaches nothing. `targets`: names or patterns of linear layers, such as `q_proj`."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Whether the linear layer of this name carries an adapter."""
        return self.rank > 0 and any(fnmatch.fnmatch(name, target) for target in self.targets)


class Linear(nnx.Module):
    """y = W x + (alpha / r) B A dropout(x), with W (out, in), A (r, in) and B (out, r) (Hu et al.).

    Differs from nnx.LoRA: has the alpha / r scale and dropout, and keeps the dtype of the base.
    """

    def __init__(self, name: str, d_in: int, d_out: int, dtype: jnp.dtype, lora: LoraConfig):
        self.weight = nnx.Param(jnp.zeros((d_out, d_in), dtype))
        self.adapted = lora.matches(name)
        self.lora = lora
        if self.adapted:
            self.lora_A = nnx.LoRAParam(jnp.zeros((lora.rank, d_in), jnp.float32))
            self.lora_B = nnx.LoRAParam(jnp.zeros((d_out, lora.rank), jnp.float32))

    def __call__(self, x_TD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        y_TD = x_TD @ self.weight[...].T
        if not self.adapted:
            return y_TD
        if dropout_key is not None and self.lora.dropout > 0:
            keep = 1.0 - self.lora.dropout
            kept_TD = jax.random.bernoulli(dropout_key, keep, x_TD.shape)
            x_TD = jnp.where(kept_TD, x_TD / keep, 0).astype(x_TD.dtype)
        a_RD, b_DR = self.lora_A[...].astype(x_TD.dtype), self.lora_B[...].astype(x_TD.dtype)
        return y_TD + (self.lora.alpha / self.lora.rank) * ((x_TD @ a_RD.T) @ b_DR.T)


def leaf_path(path: tuple) -> str:
    """Name of a parameter in the canonical order: joined by dots, layer numbers zero-padded."""
    return ".".join(f"{part:03d}" if isinstance(part, int) else str(part) for part in path)


def init_adapter(shapes: dict[str, tuple[int, ...]], seed: int) -> Leaves:
    """A uniform in +-1/sqrt(in), as PEFT has it, and B zero: the adapter starts as nothing."""
    key = jax.random.key(seed)
    leaves = {}
    for index, (path, shape) in enumerate(sorted(shapes.items())):
        if path.endswith("lora_B"):
            leaves[path] = jnp.zeros(shape, jnp.float32)
        else:
            bound = shape[1] ** -0.5
            key_leaf = jax.random.fold_in(key, index)
            leaves[path] = jax.random.uniform(key_leaf, shape, jnp.float32, -bound, bound)
    return leaves


def _peft_name(path: str) -> str:
    parts = [str(int(part)) if part.isdigit() else part for part in path.split(".")]
    return "base_model.model.model." + ".".join(parts) + ".weight"


def write_adapter(folder: epath.Path, adapter: Leaves, lora: LoraConfig, base_name: str) -> None:
    """Write the adapter as PEFT does: `adapter_model.safetensors` and `adapter_config.json`."""
    tensors = {_peft_name(path): np.asarray(leaf) for path, leaf in adapter.items()}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({path.split(".")[-2] for path in adapter}),
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "adapter_model.safetensors", to_bytes(tensors))
    write_atomic(folder / "adapter_config.json", json.dumps(settings, indent=2) + "\n")


def read_adapter(folder: epath.Path, shapes: dict[str, tuple[int, ...]]) -> Leaves:
    """Read PEFT's adapter file into leaves of the given shapes; InputError on any other shape."""
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise InputError(f"{file}: no such adapter; give a folder written by PEFT or a fine-tune")
    tensors = read_tensors(file)
    names = {path: _peft_name(path) for path in shapes}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = {names[path]: tuple(shape) for path, shape in shapes.items()}
    if found != wanted:
        odd = sorted(set(found.items()) ^ set(wanted.items()))[0]
        raise InputError(
            f"{file}: tensor {odd[0]} {odd[1]} is not shared with the model; "
            "use the rank and targets that the adapter was trained with"
        )
    return {path: jnp.asarray(tensors[names[path]], jnp.float32) for path in sorted(shapes)}
