"""Reads and writes PEFT's adapter files; each field is computed as PEFT does it, or refused."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath

from g2is_jax.model.build import Model
from g2is_jax.model.config_file import read_json_object
from g2is_jax.model.lora import Leaves, LoraConfig, checkpoint_path, linear_layers
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.runs.tensors import read_tensors, tensor_table, to_bytes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = re.compile(
    r"base_model\.model\.model\.(layers\.\d+\.\w+\.\w+_proj)\.lora_[AB]\.weight", re.ASCII
)
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
# Fields that are notes, or name the adapted modules, which the tensors' own names tell.
NO_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",  # only how A is first drawn
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
}
NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda r: isinstance(r, int) and r > 0, "a whole number above 0"),
    "lora_alpha": (lambda alpha: 0 < alpha <= sys.float_info.max, "a number above 0"),
    "lora_dropout": (lambda dropout: 0 <= dropout < 1, "from 0 to below 1"),
}
# Any other field has to be off: null, false or empty.
SUPPORTED: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "use_rslora": (True, False),
    # The others (pissa, olora, corda, loftq, lora_ga) also change the base's weights.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}


def write_adapter(folder: epath.Path, adapter: Leaves, model: Model, base_name: str) -> None:
    """Writes the adapter as PEFT does: `adapter_model.safetensors` and `adapter_config.json`."""
    leaves = model.adapter_layout.by_layer(adapter)
    tensors = {tensor_name(path): np.asarray(leaf) for path, leaf in leaves.items()}
    lora = model.lora
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "target_modules": _target_modules(model),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    make_folder(folder)
    write_atomic(folder / WEIGHTS, to_bytes(tensors))
    write_atomic(folder / CONFIG, json.dumps(settings, indent=2) + "\n")


def read_lora_config(folder: epath.Path) -> LoraConfig:
    """Returns the settings of a PEFT adapter; the targets are the layers that it has tensors of."""
    raw = _read_settings(folder)
    modules = set()
    for name in _table(folder):
        match = TENSOR.fullmatch(name)
        if match is None:
            raise InputError(
                f"{folder / WEIGHTS}: tensor {name} is not of a decoder's linear layer; "
                f"{_way_out(folder)}"
            )
        modules.add(match[1])
    return LoraConfig(
        rank=raw["r"],
        alpha=float(raw["lora_alpha"]),
        dropout=float(raw["lora_dropout"]),
        targets=tuple(sorted(modules)),
        rslora=bool(raw.get("use_rslora")),
    )


def read_adapter(folder: epath.Path, model: Model) -> Leaves:
    """Returns a PEFT adapter's leaves, float32; InputError unless its settings are the model's."""
    theirs = read_lora_config(folder)
    for field in ("rank", "alpha", "rslora"):
        found, asked = getattr(theirs, field), getattr(model.lora, field)
        if found != asked:
            raise InputError(
                f"{folder}: an adapter of {field} {found}, and lora.{field} = {asked}; "
                f"set lora.{field} to {found}, or give another adapter"
            )
    file = folder / WEIGHTS
    found = {name: entry.shape for name, entry in _table(folder).items()}
    wanted = {tensor_name(path): tuple(shape) for path, shape in model.adapter_shapes.items()}
    if found != wanted:
        name, shape = min(set(found.items()) ^ set(wanted.items()))
        raise InputError(
            f"{file}: tensor {name} {shape} is not shared with the model; "
            "use the checkpoint and the lora.targets that the adapter was trained with"
        )
    tensors = read_tensors(file)
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"{file}: tensor {name} is {tensor.dtype}; {_way_out(folder)}")
    leaves = {
        path: jnp.asarray(tensors[tensor_name(path)], jnp.float32)
        for path in sorted(model.adapter_shapes)
    }
    return model.adapter_layout.stacked(leaves)


def tensor_name(path: str) -> str:
    """PEFT's name of an adapter's parameter."""
    return f"base_model.model.model.{checkpoint_path(path)}.weight"


def _target_modules(model: Model) -> list[str]:
    """Returns bare names where all layers of a name carry an adapter, else the layers' paths."""
    linear = linear_layers(model.base_shapes)
    bare = [path for path in linear if not model.lora.matches(path)]
    partial = {path.rpartition(".")[2] for path in bare}
    carrying = [(path, path.rpartition(".")[2]) for path in linear if path not in bare]
    return sorted({path if name in partial else name for path, name in carrying})


def _table(folder: epath.Path) -> dict:
    file = folder / WEIGHTS
    if not file.exists():
        raise InputError(f"{file}: no such adapter; give a folder written by PEFT or a fine-tune")
    table = tensor_table(file)
    if not table:
        raise InputError(f"{file}: holds no tensor; give another adapter")
    return table


def _read_settings(folder: epath.Path) -> dict:
    """Reads `adapter_config.json`; InputError names a field that is absent or not supported."""
    file = folder / CONFIG
    if not file.exists():
        raise InputError(f"{file}: no such adapter; give a folder written by PEFT or a fine-tune")
    raw = read_json_object(file, "copy the adapter again")
    missing = [name for name in ("peft_type", *NUMBERS) if name not in raw]
    if missing:
        raise InputError(f"{file}: has no {', '.join(missing)}; copy the adapter again")
    for name, value in raw.items():
        if name in NUMBERS:
            _check_number(file, name, value)
        elif name in SUPPORTED:
            if not any(value is choice or value == choice for choice in SUPPORTED[name]):
                listed = ", ".join(json.dumps(choice) for choice in SUPPORTED[name])
                raise InputError(
                    f"{file}: {name} = {json.dumps(value)} is not supported, only {listed}; "
                    f"{_way_out(folder)}"
                )
        elif name not in NO_EFFECT and value not in (None, False, {}, []):
            raise InputError(
                f"{file}: {name} = {json.dumps(value)} is not supported; {_way_out(folder)}"
            )
    return raw


def _check_number(file: epath.Path, name: str, value: object) -> None:
    fits, wanted = NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise InputError(
            f"{file}: {name} = {json.dumps(value)}; it must be {wanted}: copy the adapter again"
        )


def _way_out(folder: epath.Path) -> str:
    return (
        f"merge {folder.name} into its base with PEFT (merge_and_unload) "
        "and give the merged model as model.checkpoint"
    )
