"""Training steps and feature passes of a real checkpoint, against PyTorch with peft on the same.

    python -m experiments.bench.against_peft --checkpoint=FOLDER --output=bench.json

Parts, by commas: `training` (the gradient of a batch and AdamW's step, on both sides) and
`features` (our pass to projected features, kind sgd, against torch's gradient of the batch, without
a step). Both sides have the same weights, adapter and rows, in turns on the same cores; ratios are
of calls of the same round. What both compute is compared before it is timed. Tracing and compiling
are apart.
"""

import dataclasses
import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.models import (
    Subject,
    checkpoint_folder,
    features_of,
    project_with,
    random_rows,
    read_subject,
    settings_of,
)
from experiments.bench.peft_loop import PeftLoop
from experiments.bench.timing import (
    alternate,
    build_program,
    check_settings,
    heading,
    launch,
    machine,
    paired_ratio,
    ranged,
    versions,
)
from g2is_jax.data.batches import Batch, pad_batch
from g2is_jax.features.projection import ProjectionConfig, random_bits
from g2is_jax.model.build import DTYPES
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError
from g2is_jax.training.optimizer import OptimizerConfig, adam_direction
from g2is_jax.training.steps import gradient_function, update_function

PARTS = ("training", "features")
OPTIMIZER = OptimizerConfig(2e-5, "constant", 0.0, 0.0, 0.9, 0.999, 1e-8)
# The loss of both sides relative to each other, and the cosine of what they computed: beyond this
# they did not do the same work. bfloat16 has 8 bits.
FARTHEST = {"float32": (1e-4, 0.999), "bfloat16": (0.02, 0.9)}


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    checkpoint: a Hugging Face folder; `skills` is the built-in base
    parts: of training and features, by commas
    dtype: of the base's weights on both sides: float32 or bfloat16
    activations: ours between the weights, or auto
    model: more of our settings, as `attention=xla,remat=true`: fields of the config's model section
    peft_adapter: dtype of peft's adapter; float32 is its own choice
    rank: rank of the adapter
    rows, tokens: rows of the batch and their length; the last two thirds of each are supervised
    width, repetitions: of the sketch
    threads: cores to use
    repeats: rounds
    """

    checkpoint: str = "skills"
    parts: str = "training,features"
    dtype: str = "bfloat16"
    activations: str = "auto"
    model: str = ""
    peft_adapter: str = "float32"
    rank: int = 16
    rows: int = 8
    tokens: int = 256
    width: int = 8192
    repetitions: int = 2
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rank", "rows", "width", "repetitions", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.tokens < 2:
            raise InputError(f"--tokens is {self.tokens}; at least 2")
        settings_of(self)  # are they known?
        if self.peft_adapter not in DTYPES:
            choices = ", ".join(DTYPES)
            raise InputError(f"--peft_adapter is {self.peft_adapter!r}; choose from {choices}")


@dataclass(frozen=True)
class Task:
    """A checkpoint, its adapter and a batch, alike on both sides."""

    subject: Subject
    batch: Batch
    peft: PeftLoop


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("peft is not installed: pip install -r requirements-parity.txt")
    import peft
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(config.threads)
    disable_progress_bar()
    task = read_task(config)
    parts: dict[str, Callable] = {"training": training, "features": features}
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax, torch, transformers, peft),
        "model": task.subject.name,
        "model_settings": dataclasses.asdict(task.subject.model.settings),
        "parameters": task.subject.parameters,
        "adapter_values": task.subject.values,
        **{part: parts[part](config, task) for part in config.parts.split(",")},
    }


def read_task(config: BenchConfig) -> Task:
    """Reads the checkpoint on both sides and makes the batch."""
    subject = read_subject(config.checkpoint, config.rank, settings_of(config))
    encoded = random_rows([config.tokens] * config.rows, subject.model.config.vocab_size)
    batch = pad_batch(encoded, range(config.rows), config.rows, config.tokens)
    folder, lora = checkpoint_folder(config.checkpoint), subject.model.lora
    adapter = subject.model.adapter_layout.by_layer(subject.adapter)
    loop = PeftLoop(folder, adapter, lora, config.dtype, config.peft_adapter, batch)
    return Task(subject, batch, loop)


def training(config: BenchConfig, task: Task) -> dict:
    """Times optimiser steps; both adapters train on from round to round."""
    subject, fields = task.subject, vars(task.batch)
    key = jax.random.key(0)
    inputs = (subject.adapter, subject.base, fields, key)
    of_gradient, gradient = build_program(gradient_function(subject.model), *inputs)
    gradients, loss, tokens = gradient(*inputs)
    means = jax.tree.map(lambda leaf: np.asarray(leaf) / int(tokens), gradients)
    difference = abs(float(loss) / int(tokens) / task.peft.gradient() - 1)
    by_layer = subject.model.adapter_layout.by_layer
    theirs_G = flat(task.peft.read(gradient=True))
    same = agreement(config.dtype, flat(by_layer(means)), theirs_G, difference)
    adapter = jax.tree.map(jnp.copy, subject.adapter)  # an update takes the arrays it is given
    state, rate = adam_direction(OPTIMIZER).init(adapter), OPTIMIZER.learning_rate
    of_update, update = build_program(
        update_function(OPTIMIZER), adapter, state, gradients, loss, tokens, rate
    )
    optimizer, kept = task.peft.optimizer(OPTIMIZER), [adapter, state]

    def ours() -> None:
        summed = gradient(kept[0], subject.base, fields, key)
        kept[:] = jax.block_until_ready(update(*kept, *summed, rate))[:2]

    def theirs() -> None:
        task.peft.gradient()
        optimizer.step()

    start_G = flat(by_layer(subject.adapter))
    seconds = timed_sides(ours, theirs, config.repeats)
    moved = flat(by_layer(kept[0])) - start_G, flat(task.peft.read(gradient=False)) - start_G
    return {
        "building_seconds": {"gradient": of_gradient, "update": of_update},
        **same,
        "moved_cosine": cosine(*moved),  # low where peft's adapter rounds small steps away
        **speeds(seconds, config),
    }


def features(config: BenchConfig, task: Task) -> dict:
    """Times a batch's projected features against torch's gradient of the batch.

    The projection is linear and the rows are of one length, so that the mean of our features is the
    projection of torch's gradient.
    """
    projection = ProjectionConfig("sketch", config.width, config.repetitions)
    function, inputs = features_of(task.subject, "sgd", projection)
    batch = (task.batch.tokens_BT, task.batch.supervised_BT)
    building, program = build_program(function, inputs, *batch)
    mean_P = np.asarray(program(inputs, *batch).features_KBP[0]).mean(axis=0)
    model = task.subject.model
    task.peft.load(model.adapter_layout.by_layer(task.subject.adapter))  # training has moved it
    task.peft.gradient()
    gradient = {path: jnp.asarray(g)[None] for path, g in task.peft.read(gradient=True).items()}
    bits = random_bits(projection, 0, model.adapter_shapes)
    theirs_P = np.asarray(project_with(projection, bits, gradient))[0]
    same = agreement(config.dtype, mean_P, theirs_P)

    def ours() -> None:
        jax.block_until_ready(program(inputs, *batch))

    seconds = timed_sides(ours, task.peft.gradient, config.repeats)
    return {"building_seconds": {"features": building}, **same, **speeds(seconds, config)}


def flat(leaves: Leaves | dict[str, np.ndarray]) -> np.ndarray:
    """Returns all values, in the canonical order."""
    return np.concatenate([np.asarray(leaves[path]).ravel() for path in sorted(leaves)])


def cosine(ours_G: np.ndarray, theirs_G: np.ndarray) -> float:
    return float(ours_G @ theirs_G / (np.linalg.norm(ours_G) * np.linalg.norm(theirs_G)))


def agreement(dtype: str, ours_G, theirs_G, loss_difference: float = 0.0) -> dict[str, float]:
    """Returns how far the sides are apart; RuntimeError where they did not do the same work."""
    norms = np.linalg.norm(ours_G), np.linalg.norm(theirs_G)
    found = {
        "cosine": cosine(ours_G, theirs_G),
        "norm_ratio": float(norms[0] / norms[1]),
        "loss_difference": loss_difference,
    }
    farthest, least = FARTHEST[dtype]
    if not (found["cosine"] >= least and abs(found["norm_ratio"] - 1) <= 1 - least
            and loss_difference <= farthest):  # fmt: skip
        raise RuntimeError(f"ours and peft's are not the same work: {found}")
    return found


def timed_sides(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> dict[str, list[float]]:
    """Returns the seconds of both sides' calls; each is called once before."""
    sides: dict[str, Any] = {"ours": ours, "peft": theirs}
    for call in sides.values():
        call()
    return alternate(sides, repeats)


def speeds(seconds: Mapping[str, Sequence[float]], config: BenchConfig) -> dict:
    """Returns tokens a second of each side, and how many times faster ours is."""
    tokens = config.rows * config.tokens
    return {
        "seconds": seconds,
        "tokens_per_second": {s: tokens / statistics.median(x) for s, x in seconds.items()},
        "ratio": paired_ratio(seconds["peft"], seconds["ours"]),
    }


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s, ours = result["settings"], result["model_settings"]
    lines = [
        heading(result),
        f"{result['model']}: {result['parameters']:,} parameters in {s['dtype']}, adapter of rank "
        f"{s['rank']}: {result['adapter_values']:,} values, peft's in {s['peft_adapter']}; "
        f"{s['rows']} rows of {s['tokens']} tokens, two thirds supervised",
        "ours: " + ", ".join(f"{name}={value}" for name, value in ours.items()),
        f"{'tokens a second':<18}{'ours':>8}{'peft':>8}{'ratio':>24}{'cosine':>9}",
    ]
    for part in s["parts"].split(","):
        found = result[part]
        rates = found["tokens_per_second"]
        lines.append(
            f"{part:<18}{rates['ours']:>8,.0f}{rates['peft']:>8,.0f}{ranged(found['ratio']):>24}"
            f"{found['cosine']:>9.4f}"
        )
    for part in s["parts"].split(","):
        for name, taken in result[part]["building_seconds"].items():
            lines.append(f"{name}: traced in {taken['trace']:.1f} s, "
                         f"compiled in {taken['compile']:.1f} s")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
