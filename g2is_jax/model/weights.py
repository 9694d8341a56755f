"""Reads and writes a Hugging Face checkpoint's weights, one tensor at a time."""

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.families import read_fields
from g2is_jax.model.lora import Leaves, Shapes, checkpoint_path
from g2is_jax.model.stacks import Layout
from g2is_jax.model.weight_files import INDEX, SINGLE, stored_tensors
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.runs.tensors import (
    TensorEntry,
    aligned_array,
    read_tensor,
    write_tensors,
)

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BLOCK_BYTES = 64 * 2**20  # read and cast at once
SHARD_BYTES = 5 * 10**9  # the most in a file that is written
Sharding = jax.sharding.Sharding


def tensor_name(path: str) -> str:
    """Returns a parameter's name in a checkpoint, such as `layers.003.mlp.up_proj.weight`."""
    if path == "embed_tokens":
        return EMBEDDING
    if path == "lm_head":
        return HEAD
    return f"model.{checkpoint_path(path)}"


def read_decoder(folder: epath.Path) -> tuple[DecoderConfig, list[str]]:
    """Returns the decoder of a checkpoint, and lines on what of its config is passed over.

    Where the config ties the head to the embedding, and the file has a head that is another, the
    head is kept: this is what it was trained with.
    """
    config, notes = read_fields(read_raw_config(folder), str(folder / "config.json"))
    found = stored_tensors(folder)
    both = config.tie_word_embeddings and {HEAD, EMBEDDING} <= found.keys()
    if both and not _equal(found[HEAD], found[EMBEDDING]):
        notes.append(
            f"{folder}: {HEAD} is not the embedding, though config.json says tie_word_embeddings; "
            "it is kept as a head of its own"
        )
        config = dataclasses.replace(config, tie_word_embeddings=False)
    return config, notes


def _equal(one: tuple[epath.Path, TensorEntry], other: tuple[epath.Path, TensorEntry]) -> bool:
    """Compares two stored matrices, block by block."""
    (file, entry), (other_file, other_entry) = one, other
    if entry.shape != other_entry.shape:
        return False
    step = max(BLOCK_BYTES * entry.shape[0] // max(entry.end - entry.begin, 1), 1)
    return all(
        np.array_equal(
            read_tensor(file, entry, slice(first, first + step)),
            read_tensor(other_file, other_entry, slice(first, first + step)),
        )
        for first in range(0, entry.shape[0], step)
    )


def read_weights(
    folder: epath.Path,
    layout: Layout,
    dtype: jnp.dtype,
    sharding: Callable[[str], Sharding | None] = lambda path: None,
) -> Leaves:
    """Fills every leaf from the folder's safetensors, cast to `dtype`, on its own devices.

    `sharding`: the sharding of each leaf; None: on the default device. The host holds one tensor at
    a time. Every missing, unused or wrongly shaped tensor is listed in one InputError.
    """
    found, shapes = stored_tensors(folder), layout.shapes
    if "lm_head" not in shapes:
        found.pop(HEAD, None)  # tied: some writers store a second copy
    _check_fit(folder, found, shapes)
    leaves: Leaves = {}
    leaf_shapes = layout.leaf_shapes()
    for part in sorted(shapes, key=lambda part: _file_order(found[tensor_name(part)])):
        path, place = layout.place(part)
        held = sharding(path)
        file, entry = found[tensor_name(part)]
        if place is None:
            leaves[path] = _to_devices(file, entry, np.dtype(dtype), held)
            continue
        if path not in leaves:
            leaves[path] = jnp.zeros(leaf_shapes[path], dtype, device=held)
        leaf = _to_devices(file, entry, np.dtype(dtype), _of_layer(held))
        leaves[path] = _filled(leaves[path], leaf, place).block_until_ready()
    return {path: leaves[path] for path in sorted(leaves)}


@functools.partial(jax.jit, donate_argnums=0)
def _filled(stack: jax.Array, leaf: jax.Array, place: jax.Array | int) -> jax.Array:
    """Writes one layer into its place of a stack, which is not copied."""
    return jax.lax.dynamic_update_index_in_dim(stack, leaf, place, axis=0)


def _of_layer(held: Sharding | None) -> Sharding | None:
    """Returns the sharding of one layer of a stack that is held so."""
    if not isinstance(held, jax.sharding.NamedSharding):
        return held
    return jax.sharding.NamedSharding(held.mesh, jax.sharding.PartitionSpec(*held.spec[1:]))


def _file_order(found: tuple[epath.Path, TensorEntry]) -> tuple[str, int]:
    return str(found[0]), found[1].begin


def _to_devices(
    file: epath.Path, entry: TensorEntry, dtype: np.dtype, sharding: Sharding | None
) -> jax.Array:
    if sharding is None:
        leaf = jax.device_put(_read_as(file, entry, dtype, (slice(None),) * len(entry.shape)))
    else:
        read = functools.partial(_read_as, file, entry, dtype)
        leaf = jax.make_array_from_callback(entry.shape, sharding, read)
    return leaf.block_until_ready()  # else the host copies of several tensors pile up


def _read_as(
    file: epath.Path, entry: TensorEntry, dtype: np.dtype, index: tuple[slice, ...]
) -> np.ndarray:
    """Returns the part of a tensor that `index` names, cast block by block."""
    if entry.dtype == dtype and index[1:] == (slice(None),) * len(index[1:]):
        return read_tensor(file, entry, index[0])
    ranges = [range(*part.indices(size)) for part, size in zip(index, entry.shape, strict=True)]
    array = aligned_array(tuple(len(places) for places in ranges), dtype)
    rows, row_bytes = ranges[0], (entry.end - entry.begin) // entry.shape[0]
    step = max(BLOCK_BYTES // row_bytes, 1)
    for first in range(rows.start, rows.stop, step):
        last = min(first + step, rows.stop)
        block = read_tensor(file, entry, slice(first, last))
        array[first - rows.start : last - rows.start] = block[(slice(None), *index[1:])]
    return array


def _check_fit(folder: epath.Path, found: dict, shapes: Shapes) -> None:
    names = {path: tensor_name(path) for path in shapes}
    missing = sorted(set(names.values()) - set(found))
    extra = sorted(set(found) - set(names.values()))
    wrong = [
        f"{name} is {found[name][1].shape} and should be {tuple(shapes[path])}"
        for path, name in names.items()
        if name in found and found[name][1].shape != tuple(shapes[path])
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


def write_checkpoint(
    folder: epath.Path,
    raw_config: dict,
    shapes: Shapes,
    produce: Callable[[str], np.ndarray | jax.Array],
    dtype: jnp.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a checkpoint in Hugging Face layout, its weights in files of at most `shard_bytes`.

    `produce` returns the parameter of a path in any float dtype; it is called for one at a time.
    """
    make_folder(folder)
    paths = {tensor_name(path): path for path in sorted(shapes)}
    shards = _split(paths, shapes, np.dtype(dtype), shard_bytes)
    for file, names in shards.items():
        write_tensors(
            folder / file,
            {name: (shapes[paths[name]], np.dtype(dtype)) for name in names},
            lambda name: np.asarray(produce(paths[name]), dtype),
        )
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        total = sum(int(np.prod(shape)) for shape in shapes.values()) * np.dtype(dtype).itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_atomic(folder / INDEX, json.dumps(index, indent=2) + "\n")
    settings = {key: value for key, value in raw_config.items() if key != "dtype"}
    settings["torch_dtype"] = jnp.dtype(dtype).name
    write_atomic(folder / "config.json", json.dumps(settings, indent=2) + "\n")


def _split(
    paths: dict[str, str], shapes: Shapes, dtype: np.dtype, shard_bytes: int
) -> dict[str, list[str]]:
    """Returns the names of tensors by the file that is to hold them."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, path in paths.items():
        size = int(np.prod(shapes[path])) * dtype.itemsize
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    count = len(groups)
    return {f"model-{i:05d}-of-{count:05d}.safetensors": g for i, g in enumerate(groups, 1)}
