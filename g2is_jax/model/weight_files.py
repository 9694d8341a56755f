"""Finds the files of a checkpoint's weights, and what tensors are in them."""

import json
import re
from pathlib import PurePosixPath

from etils import epath

from g2is_jax.model.config_file import adapter_way_out, is_adapter, listed, read_raw_config
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import TensorEntry, tensor_table

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TEXTS = (".json", ".jinja", ".model", ".txt")  # config, tokenizer, chat template, generation
NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
FULL_PRECISION = ("float64", "float32", "float16", "bfloat16")
# Names, or their ends, of what quantised weights bring beside them (bitsandbytes, GPTQ, AWQ, fp8).
OF_QUANTISED = re.compile(
    r"\.(SCB|absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..*|qweight|qzeros|scales|"
    r"g_idx|weight_scale|weight_scale_inv|weight_zero_point|weight_packed|input_scale|weight_format)$"
)
Tensors = dict[str, tuple[epath.Path, TensorEntry]]


def checkpoint_files(folder: epath.Path) -> list[epath.Path]:
    """Returns the files that decide what a checkpoint computes: config, tokenizer, weights."""
    read_raw_config(folder)  # raises if this is no checkpoint
    return sorted(f for f in folder.iterdir() if f.suffix in TEXTS) + weight_files(folder)


def stored_tensors(folder: epath.Path) -> Tensors:
    """Returns every tensor of a checkpoint and the file it is in; InputError if some are quantised:
    their numbers mean nothing without their scales."""
    found = {
        name: (file, entry)
        for file in weight_files(folder)
        for name, entry in tensor_table(file).items()
        if not name.endswith("rotary_emb.inv_freq")  # computed from the config
    }
    narrow = [
        name
        for name, (_, entry) in found.items()
        if name.endswith((".weight", ".bias")) and entry.dtype.name not in FULL_PRECISION
    ]
    scales = [name for name in found if OF_QUANTISED.search(name)]
    if narrow or scales:
        first = min(narrow or scales)
        beside = f"with {min(scales)} beside it" if scales else "and there are no scales"
        raise InputError(
            f"{folder}: quantised weights are not supported: {first} is "
            f"{found[first][1].dtype.name}, {beside}; give the model's weights in bfloat16 or "
            "float32"
        )
    return found


def weight_files(folder: epath.Path) -> list[epath.Path]:
    """Returns the safetensors files of a checkpoint; InputError names what is there instead."""
    index = folder / INDEX
    if not index.exists() and not (folder / SINGLE).exists():
        return _without_index(folder)
    files = [folder / name for name in _indexed(index)] if index.exists() else [folder / SINGLE]
    for file in files:
        if not file.exists():
            raise InputError(f"{file}: no such file; the checkpoint needs its safetensors weights")
    return files


def _without_index(folder: epath.Path) -> list[epath.Path]:
    """Returns the files that are numbered through, as `model-00001-of-00003.safetensors` is."""
    if is_adapter(folder):
        raise InputError(f"{folder}: {adapter_way_out(folder)}")
    files = sorted(folder.glob("*.safetensors"))
    numbered = [NUMBERED.fullmatch(file.name) for file in files]
    if files and all(numbered):
        parts = [match.groups() for match in numbered if match]
        counts = {(name, int(of)) for name, _, of in parts}
        if len(counts) == 1:
            name, count = counts.pop()
            missing = sorted(set(range(1, count + 1)) - {int(number) for _, number, _ in parts})
            if not missing:
                return files
            raise InputError(
                f"{folder}: without {INDEX} all {count} files have to be there, and of "
                f"{name}-*-of-* there is no {listed(missing)}; download the checkpoint again"
            )
    if files:
        raise InputError(
            f"{folder}: has {listed(file.name for file in files)} and no {INDEX}, so which of them "
            f"are the weights is not known; download the index, or name a single file {SINGLE}"
        )
    others = [file.name for pattern in OTHER_FORMATS for file in folder.glob(pattern)]
    if others:
        raise InputError(
            f"{folder}: has its weights as {listed(others)} alone, which are not read; save them "
            "as safetensors where torch is installed: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(OUTPUT)"
        )
    file = folder / SINGLE
    raise InputError(f"{file}: no such file; the checkpoint needs its safetensors weights")


def _indexed(index: epath.Path) -> list[str]:
    """Returns the .safetensors files that the index names, each of them beside it."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        paths = [PurePosixPath(name) for name in names]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: no weight_map of file names ({error}); download the checkpoint again"
        ) from error
    for name, path in zip(names, paths, strict=True):
        if path.name != name or path.suffix != ".safetensors":
            raise InputError(
                f"{index}: names {name!r}, which is no .safetensors file beside it; download the "
                "checkpoint again"
            )
    return names
