"""Hugging Face checkpoints to parameters and back, by a table checked both ways."""

import json

import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.model.decoder import DecoderConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import write_atomic
from g2is_jax.runs.tensors import read_tensors, to_bytes

# What the decoder computes, so that no other value of these fields is silently ignored.
FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


def read_config(folder: epath.Path) -> DecoderConfig:
    """Read `config.json`; InputError names a field that is absent or not supported."""
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; model.checkpoint must be a Hugging Face folder")
    try:
        raw = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(
            f"{file}: not valid JSON ({error}); download the checkpoint again"
        ) from error
    for field, supported in FIXED.items():
        if raw.get(field, supported) != supported:
            raise InputError(
                f"{file}: {field} = {raw[field]!r} is not supported; only {supported!r} is so far"
            )
    raw = {**raw, **_rope(raw, file)}
    if raw.get("head_dim") is None and raw.get("hidden_size") and raw.get("num_attention_heads"):
        raw["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
    fields = DecoderConfig.__dataclass_fields__
    missing = [field for field in fields if raw.get(field) is None]
    if missing:
        raise InputError(f"{file}: has no {', '.join(missing)}; the decoder needs every one")
    return DecoderConfig(**{field: raw[field] for field in fields})


def _rope(raw: dict, file: epath.Path) -> dict[str, float]:
    """The rotary base, from transformers 4's `rope_theta` or 5's `rope_parameters`."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise InputError(
            f"{file}: rope scaling {kind!r} is not supported; only 'default' is so far"
        )
    theta = scaling.get("rope_theta", raw.get("rope_theta"))
    return {} if theta is None else {"rope_theta": theta}


def tensor_name(path: str) -> str:
    """Name in the checkpoint of a parameter: `layers.003.mlp.up_proj.weight` and the rest."""
    if path == "embed_tokens":
        return "model.embed_tokens.weight"
    if path == "lm_head":
        return "lm_head.weight"
    parts = [str(int(part)) if part.isdigit() else part for part in path.split(".")]
    return "model." + ".".join(parts)


def read_weights(
    folder: epath.Path, shapes: dict[str, tuple[int, ...]], dtype: jnp.dtype
) -> dict[str, jnp.ndarray]:
    """Fill every parameter from the folder's safetensors, cast to `dtype`.

    Every missing, unused or wrongly shaped tensor is listed in one InputError.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in _shards(folder):
        tensors |= read_tensors(file)
    if "lm_head" not in shapes:
        tensors.pop("lm_head.weight", None)  # tied: some writers store a second copy
    tensors = {k: v for k, v in tensors.items() if not k.endswith("rotary_emb.inv_freq")}
    names = {path: tensor_name(path) for path in shapes}
    missing = sorted(set(names.values()) - set(tensors))
    extra = sorted(set(tensors) - set(names.values()))
    wrong = [
        f"{name} is {tensors[name].shape} and should be {tuple(shapes[path])}"
        for path, name in names.items()
        if name in tensors and tensors[name].shape != tuple(shapes[path])
    ]
    problems = [
        f"{label}: {', '.join(items)}"
        for label, items in (("missing", missing), ("unused", extra), ("wrong shape", wrong))
        if items
    ]
    if problems:
        raise InputError(
            f"{folder}: tensors do not fit config.json; {'; '.join(problems)}; "
            "give the config.json that belongs to these weights"
        )
    return {path: jnp.asarray(tensors[names[path]], dtype) for path in sorted(shapes)}


def checkpoint_files(folder: epath.Path) -> list[epath.Path]:
    """The files that decide what a checkpoint computes: config, weights, tokenizer."""
    if not (folder / "config.json").exists():
        read_config(folder)  # says what is missing
    texts = (".json", ".jinja", ".model", ".txt")
    small = sorted(f for f in folder.iterdir() if f.suffix in texts)
    return small + _shards(folder)


def _shards(folder: epath.Path) -> list[epath.Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        files = [folder / name for name in sorted(names)]
    else:
        files = [single]
    for file in files:
        if not file.exists():
            raise InputError(f"{file}: no such file; the checkpoint needs its safetensors weights")
    return files


def write_checkpoint(
    folder: epath.Path, config: DecoderConfig, parameters: dict, dtype: jnp.dtype
) -> None:
    """Write `config.json` and `model.safetensors` in Hugging Face layout."""
    tensors = {tensor_name(path): np.asarray(leaf, dtype) for path, leaf in parameters.items()}
    settings = {
        "architectures": ["LlamaForCausalLM"],
        **FIXED,
        **{field: getattr(config, field) for field in DecoderConfig.__dataclass_fields__},
        "torch_dtype": jnp.dtype(dtype).name,
    }
    write_atomic(folder / "model.safetensors", to_bytes(tensors))
    write_atomic(folder / "config.json", json.dumps(settings, indent=2) + "\n")
