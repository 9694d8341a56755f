"""How long programs take to compile, and how large they are, for models of more and more layers.

    python -m experiments.bench.depth --threads=2 --output=bench.json

Parts, by commas: `features` (kinds sgd and adam, sketched) and `training` (the gradient of a step,
with dropout), of a narrow Llama without weights: nothing is computed. Depths take turns, so that
other work on the machine hits all of them; growth is of compilations of the same round.
"""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.serialize_executable import serialize

from experiments.bench.models import RANDOM, adam, lora_config, settings_of
from experiments.bench.timing import (
    build_program,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from g2is_jax.data.batches import Batch
from g2is_jax.features.gradients import feature_function, shared_inputs
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.runs.errors import InputError
from g2is_jax.training.optimizer import Moments
from g2is_jax.training.steps import gradient_function

PARTS = ("features", "training")
KINDS = ("sgd", "adam")
HEADS = 4
COSTS = ("trace", "compile", "bytes")


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of features and training, by commas
    layers: depths, by commas
    against: the depth to which the others' growth is
    hidden: width of the Llama
    dtype: of its weights: float32 or bfloat16
    activations: between the weights, or auto
    model: more settings, as `attention=xla,remat=true`: fields of the config's model section
    rank: rank of the adapter
    dropout: of the adapter, in training
    rows, tokens: rows of the batch and their length
    width, repetitions: of the sketch
    threads: cores to use
    repeats: rounds
    """

    parts: str = "features,training"
    layers: str = "2,8,32,64"
    against: int = 8
    hidden: int = 64
    dtype: str = "bfloat16"
    activations: str = "auto"
    model: str = ""
    rank: int = 8
    dropout: float = 0.1
    rows: int = 4
    tokens: int = 128
    width: int = 8192
    repetitions: int = 2
    threads: int = 1
    repeats: int = 3

    def __post_init__(self):
        positive = ("rank", "rows", "tokens", "width", "repetitions", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if not all(layers.isdecimal() and int(layers) for layers in self.layers.split(",")):
            raise InputError(f"--layers is {self.layers!r}; give numbers by commas, as 2,8,32")
        if self.against not in self.depths:
            raise InputError(f"--against is {self.against}; give one of --layers={self.layers}")
        settings_of(self)  # are they known?
        if self.hidden < 1 or self.hidden % (2 * HEADS):
            raise InputError(f"--hidden is {self.hidden}; give a multiple of {2 * HEADS}")

    @property
    def depths(self) -> list[int]:
        return [int(layers) for layers in self.layers.split(",")]


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {
        "features": functools.partial(grown, features),
        "training": functools.partial(grown, training),
    }
    return measured(config, parts, ("jax", "jaxlib"))


def grown(part: Callable, config: BenchConfig) -> dict:
    """Returns seconds and bytes of a part's program at each depth, and their growth."""
    programs = {depth: part(config, model_of(depth, config)) for depth in config.depths}
    costs: dict[str, dict[int, list[float]]] = {
        cost: {depth: [] for depth in programs} for cost in COSTS
    }
    temporary = {}
    for repeat in range(config.repeats):
        for depth in config.depths[:: -1 if repeat % 2 else 1]:
            function, arguments = programs[depth]
            seconds, program = build_program(function, *arguments)
            found = {**seconds, "bytes": float(len(serialize(program)[0]))}
            for cost in COSTS:
                costs[cost][depth].append(found[cost])
            temporary[depth] = program.memory_analysis().temp_size_in_bytes
    return {
        **costs,
        "temporary_bytes": temporary,
        "growth": {
            cost: {
                depth: paired_ratio(taken, of_depth[config.against])
                for depth, taken in of_depth.items()
            }
            for cost, of_depth in costs.items()
        },
    }


def model_of(layers: int, config: BenchConfig) -> Model:
    """Returns a narrow Llama, without weights."""
    raw = RANDOM | {
        "hidden_size": config.hidden,
        "intermediate_size": config.hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "head_dim": config.hidden // HEADS,
    }
    lora = lora_config(config.rank, config.dropout)
    return build_model(decoder_config(raw, "config.json"), lora, settings_of(config))


def features(config: BenchConfig, model: Model) -> tuple[Any, tuple]:
    """Returns the jitted pass over a batch, and its arguments' shapes."""
    projection = ProjectionConfig("sketch", config.width, config.repetitions)
    adapter, base = leaves(model)

    def shared(adapter, base):
        return shared_inputs(model, adapter, base, Moments(1, adapter, adapter), projection, 0)

    inputs = jax.eval_shape(shared, adapter, base)
    batch = batch_of(config)
    function = feature_function(model, tuple(map(adam, KINDS)), projection)
    return function, (inputs, batch.tokens_BT, batch.supervised_BT)


def training(config: BenchConfig, model: Model) -> tuple[Any, tuple]:
    """Returns the jitted gradient of a step, and its arguments' shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return gradient_function(model), (*leaves(model), vars(batch_of(config)), key)


def leaves(model: Model) -> tuple[dict, dict]:
    """Returns the shapes of the adapter and of the base, by path."""
    adapter, base = (
        {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in layout.leaf_shapes().items()}
        for layout, dtype in ((model.adapter_layout, "float32"), (model.base_layout, model.dtype))
    )
    return adapter, base


def batch_of(config: BenchConfig) -> Any:
    """Returns a Batch of shapes."""
    shape = config.rows, config.tokens
    fields = (((config.rows,), "int32"), (shape, "int32"), (shape, "bool"))
    shapes: list[Any] = [jax.ShapeDtypeStruct(*field) for field in fields]
    return Batch(*shapes)


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [
        heading(result),
        f"Llama of width {s['hidden']} in {s['dtype']}, adapter of rank {s['rank']}; "
        f"{s['rows']} rows of {s['tokens']} tokens; growth against {s['against']} layers",
    ]
    for part in s["parts"].split(","):
        found = result[part]
        lines.append(f"\n{part}")
        lines.append(f"{'layers':>6}{'traced, s':>11}{'compiled, s':>13}{'growth':>24}"
                     f"{'program, kB':>14}{'growth':>9}{'temporary, MB':>15}")  # fmt: skip
        for depth, compiling in found["compile"].items():
            growth, size = (found["growth"][cost][depth] for cost in ("compile", "bytes"))
            lines.append(
                f"{depth:>6}{statistics.median(found['trace'][depth]):>11.1f}"
                f"{statistics.median(compiling):>13.1f}{ranged(growth):>24}"
                f"{statistics.median(found['bytes'][depth]) / 1e3:>14,.0f}"
                f"{size['median']:>9.2f}{found['temporary_bytes'][depth] / 1e6:>15.1f}"
            )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
