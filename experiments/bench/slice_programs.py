"""Compiles a model's programs for a TPU slice, from shapes alone, on a computer without any TPU.

    pip install libtpu
    python -m experiments.bench.slice_programs --topology=v5e:2x4 --output=compiled.json

Tells of each program the seconds that tracing and compiling took, the bytes that it needs on every
chip, and the collectives in it: compiled, not run. The bytes are from XLA's own analysis: arguments
(weights, adapter, Adam's moments, random bits) and temporaries (all else).
"""

import dataclasses
import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it asks a cloud for the slice it is on
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # else a lock file admits one process

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.bench.timing import launch, timed, versions
from g2is_jax.evaluation.likelihood import likelihood_function
from g2is_jax.features.extract import OUT_OF_MEMORY
from g2is_jax.features.gradients import (
    DirectionConfig,
    PassInputs,
    feature_function,
    stacked_bits,
)
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import Model, ModelConfig, build_model
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import decoder_config
from g2is_jax.model.generate import decoding_functions
from g2is_jax.model.lora import LoraConfig
from g2is_jax.model.sampling import row_keys
from g2is_jax.planning.base_models import BASE_MODELS
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import DATA, replicated
from g2is_jax.training.steps import gradient_function

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
CHUNK = 32  # tokens that one call decodes at most


@dataclass(frozen=True)
class SliceConfig:
    """The settings.

    topology: slice of chips, such as v5e:2x4, v5e:4x4, v5p:2x2x1, v6e:2x4
    model: one of the paper's base models, by its hub id
    layers: of that model; 0: all
    programs: by commas, of features, training, likelihood, prefill, decode
    rows, tokens: of a batch on each chip
    likelihood_rows: likewise, of the likelihoods, prefill and decode
    new_tokens: room for replies in the caches
    rank, dropout: of the adapter on q, k, v, o; dropout is that of the training step
    attention: kernel, splash or blocks
    projection, width: of the features, which are of two kinds, sgd and adam
    remat: compute each block again in the backward pass
    scan: one compiled layer for all that repeat
    """

    topology: str = "v5e:2x4"
    model: str = "meta-llama/Llama-3.1-8B"
    layers: int = 0
    programs: str = "features,training,likelihood,prefill,decode"
    rows: int = 4
    tokens: int = 2048
    likelihood_rows: int = 8
    new_tokens: int = 512
    rank: int = 128
    dropout: float = 0.1
    attention: str = "splash"
    projection: str = "sketch"
    width: int = 8192
    remat: bool = True
    scan: bool = True


def run(config: SliceConfig) -> dict:
    """Compiles each program; with the settings and the versions."""
    mesh = mesh_of_topology(config.topology)
    makers = {
        "features": features,
        "training": training,
        "likelihood": likelihood,
        "prefill": prefill,
        "decode": decode,
    }
    found = []
    for name in config.programs.split(","):
        if name not in makers:
            raise InputError(f"--programs: {name!r} is unknown; choose from {', '.join(makers)}")
        found.append({"program": name, **compiled(functools.partial(makers[name], config, mesh))})
        print(line(found[-1]), flush=True)
    return {"settings": dataclasses.asdict(config), "versions": versions(jax), "programs": found}


def mesh_of_topology(name: str) -> Mesh:
    """Returns the chips of a slice that need not be there, in a row."""
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:
        raise InputError(
            f"--topology={name}: {str(error).splitlines()[0]}; name one such as v5e:2x4, and "
            "install libtpu (linux, x86-64)"
        ) from error
    return Mesh(np.array(topology.devices), (DATA,), axis_types=(AxisType.Auto,))


def compiled(lower: Callable[[], Any]) -> dict:
    """Returns seconds, bytes a chip and collectives of the program that `lower` traces.

    Of one that needs more memory than a chip has, what the compiler says of that.
    """
    trace_seconds, lowered = timed(lower)
    try:
        compile_seconds, program = timed(lowered.compile)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(OUT_OF_MEMORY):
            raise
        return {"does_not_fit": str(error).splitlines()[0]}
    memory, text = program.memory_analysis(), program.as_text()
    kinds = Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
    return {
        "trace_seconds": round(trace_seconds, 1),
        "compile_seconds": round(compile_seconds, 1),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "collectives": dict(kinds),
    }


def decoder_of(config: SliceConfig) -> DecoderConfig:
    if config.model not in BASE_MODELS:
        known = ", ".join(BASE_MODELS)
        raise InputError(f"--model={config.model} is unknown; choose one of {known}")
    raw = dict(BASE_MODELS[config.model])
    if config.layers:
        raw["num_hidden_layers"] = config.layers
    return decoder_config(raw, config.model)


def model_of(config: SliceConfig, dropout: float = 0.0) -> Model:
    lora = LoraConfig(config.rank, 4.0 * config.rank, dropout, TARGETS, rslora=False)
    settings = ModelConfig(
        dtype="bfloat16",
        activations="bfloat16",
        attention=config.attention,
        remat=config.remat,
        shard_base=True,
        scan=config.scan,
    )
    return build_model(decoder_of(config), lora, settings)


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """Returns the shapes of arrays that every chip has whole."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree
    )


def adapter_of(model: Model, mesh: Mesh) -> dict:
    return everywhere(mesh, jax.eval_shape(model.zero_adapter))


def base_of(model: Model, mesh: Mesh) -> dict:
    """Returns the shapes of the base's leaves, each where it is to lie."""
    return {
        path: jax.ShapeDtypeStruct(shape, model.dtype, sharding=model.sharding(path, mesh))
        for path, shape in model.base_layout.leaf_shapes().items()
    }


def of_rows(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array with so many rows a chip."""
    whole = (shape[0] * mesh.size, *shape[1:])
    return jax.ShapeDtypeStruct(
        whole, dtype, sharding=NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    )


def features(config: SliceConfig, mesh: Mesh):
    model = model_of(config)
    projection = ProjectionConfig(config.projection, config.width, 2)
    directions = tuple(DirectionConfig(kind, 0.9, 0.999, 1e-8) for kind in ("sgd", "adam"))
    bits = everywhere(mesh, jax.eval_shape(lambda: stacked_bits(model, projection, 0)))
    adapter = adapter_of(model, mesh)
    step = everywhere(mesh, jax.ShapeDtypeStruct((), np.int32))
    inputs = PassInputs(adapter, base_of(model, mesh), adapter, adapter, step, bits)
    shape = (config.rows, config.tokens)
    return feature_function(model, directions, projection, mesh).lower(
        inputs, of_rows(mesh, shape, np.int32), of_rows(mesh, shape, np.bool_)
    )


def training(config: SliceConfig, mesh: Mesh):
    model, shape = model_of(config, config.dropout), (config.rows, config.tokens)
    batch = {
        "rows_B": of_rows(mesh, shape[:1], np.int32),
        "tokens_BT": of_rows(mesh, shape, np.int32),
        "supervised_BT": of_rows(mesh, shape, np.bool_),
        "segments_BT": of_rows(mesh, shape, np.int32),
    }
    key = everywhere(mesh, jax.eval_shape(lambda: jax.random.key(0)))
    adapter, base = adapter_of(model, mesh), base_of(model, mesh)
    return gradient_function(model, mesh).lower(adapter, base, batch, key)


def likelihood(config: SliceConfig, mesh: Mesh):
    model, shape = model_of(config), (config.likelihood_rows, config.tokens)
    rows = (of_rows(mesh, shape, np.int32), of_rows(mesh, shape, np.bool_))
    return likelihood_function(model, mesh).lower(
        adapter_of(model, mesh), base_of(model, mesh), *rows
    )


def prefill(config: SliceConfig, mesh: Mesh):
    return _decoding(config, mesh)[0]()


def decode(config: SliceConfig, mesh: Mesh):
    return _decoding(config, mesh)[1]()


def _decoding(config: SliceConfig, mesh: Mesh) -> tuple[Callable[[], Any], Callable[[], Any]]:
    model, rows = model_of(config), config.likelihood_rows
    run_prefill, advance = decoding_functions(model, 0.0, 1.0, (0,), mesh)
    adapter, base = adapter_of(model, mesh), base_of(model, mesh)
    keys = jax.eval_shape(lambda: row_keys(0, jnp.arange(rows, dtype=jnp.uint32)))
    prompts = (
        of_rows(mesh, (rows, config.tokens), np.int32),
        of_rows(mesh, (rows,), np.int32),
        of_rows(mesh, keys.shape, keys.dtype),
    )
    room = config.tokens + config.new_tokens
    start = functools.partial(run_prefill, room=room)
    state = jax.tree.map(
        lambda x: of_rows(mesh, (x.shape[0] // mesh.size, *x.shape[1:]), x.dtype),
        jax.eval_shape(start, adapter, base, *prompts),
    )
    ended_B = of_rows(mesh, (rows,), np.bool_)
    step = everywhere(mesh, jax.ShapeDtypeStruct((), np.int32))
    return (
        lambda: run_prefill.lower(adapter, base, *prompts, room=room),
        lambda: advance.lower(adapter, base, state, ended_B, step, step, chunk=CHUNK),
    )


def table(result: dict) -> str:
    """Summarises how many of the programs a chip has room for."""
    settings = result["settings"]
    fit = [program for program in result["programs"] if "does_not_fit" not in program]
    return (
        f"{settings['model']}, {settings['layers'] or 'all'} layers, for {settings['topology']}: "
        f"{len(fit)} of {len(result['programs'])} programs fit; compiled, not run"
    )


def line(program: Mapping) -> str:
    if "does_not_fit" in program:
        return f"{program['program']}: does not fit: {program['does_not_fit']}"
    gigabytes = {
        part: program[f"{part}_bytes"] / 1e9 for part in ("argument", "temporary", "output")
    }
    collectives = ", ".join(f"{n} {kind}" for kind, n in sorted(program["collectives"].items()))
    return (
        f"{program['program']}: traced in {program['trace_seconds']:.0f} s, compiled in "
        f"{program['compile_seconds']:.0f} s; GB a chip: "
        + ", ".join(f"{part} {size:.2f}" for part, size in gigabytes.items())
        + f"; code {program['code_bytes'] / 1e6:.0f} MB; {collectives or 'no collectives'}"
    )


if __name__ == "__main__":
    launch(run, SliceConfig(), table, cores=None)
