"""Training with rows that share sequences against training with padded rows: tokens a second.

    python -m experiments.bench.packing --output=bench.json

Parts, by commas: `stories` (random weights in the shape of the public stories260K: 5 layers of
width 64, 512 positions) and `skills` (the built-in base). Both sides take the gradients of the same
optimiser steps, in turns; a token is one of a row, padding does not count. Compilation is apart.
"""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from experiments.bench.models import (
    FLOAT32,
    lognormal_lengths,
    lora_config,
    make_subject,
    random_rows,
    read_subject,
)
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
    timed,
)
from g2is_jax.data.batches import training_batches, training_padding, training_shapes
from g2is_jax.runs.errors import InputError
from g2is_jax.training.steps import accumulate

PARTS = ("stories", "skills")
STORIES = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
SIDES = (False, True)  # packed?
LEAST_ERROR = 1e-4  # of the summed loss: more is no rounding


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of stories and skills, by commas
    rank: rank of the adapter
    rows: how many, of many lengths, the median a third of the longest
    tokens: length of the longest row (0: the model's positions)
    batch: rows of an optimiser step
    microbatch: tokens of a forward pass
    threads: cores to use
    repeats: rounds
    """

    parts: str = "stories,skills"
    rank: int = 8
    rows: int = 256
    tokens: int = 0
    batch: int = 64
    microbatch: int = 4096
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rank", "rows", "batch", "microbatch", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.tokens and self.tokens < 2:
            raise InputError(f"--tokens is {self.tokens}; at least 2, or 0")


def run(config: BenchConfig) -> dict:
    """Measures each model; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {part: functools.partial(measure, part) for part in PARTS}
    return measured(config, parts, ("jax",))


def measure(part: str, config: BenchConfig) -> dict:
    """Returns tokens a second of both sides and how much faster the packed one is."""
    subject = subject_of(part, config)
    longest = config.tokens or subject.model.config.max_position_embeddings
    lengths = lognormal_lengths(config.rows, longest)
    epochs = {packed: epoch_of(subject, lengths, config, packed) for packed in SIDES}
    compile_seconds, losses = zip(*(timed(epoch) for epoch, _ in epochs.values()), strict=True)
    if abs(losses[1] / losses[0] - 1) > LEAST_ERROR:
        raise RuntimeError(f"summed loss {losses[1]} packed and {losses[0]} padded: not the same")
    seconds = alternate({packed: epoch for packed, (epoch, _) in epochs.items()}, config.repeats)
    return {
        "parameters": subject.parameters,
        "rows": len(lengths),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "sides": {
            "packed" if packed else "padded": {
                **epochs[packed][1],
                "compile_seconds": compile_seconds[packed],
                "seconds": seconds[packed],
                "tokens_per_second": sum(lengths) / statistics.median(seconds[packed]),
            }
            for packed in SIDES
        },
        "faster": paired_ratio(seconds[False], seconds[True]),
    }


def subject_of(part: str, config: BenchConfig) -> Any:
    """Returns the model in float32, with an adapter on all attention projections."""
    if part == "skills":
        return read_subject(part, config.rank, FLOAT32)
    return make_subject(part, STORIES, lora_config(config.rank, dropout=0.0), FLOAT32)


def epoch_of(
    subject: Any, lengths: list[int], config: BenchConfig, packed: bool
) -> tuple[Callable[[], float], dict]:
    """Returns () -> summed loss, after the gradients of an epoch; and its shapes and padding."""
    rows = random_rows(lengths, subject.model.config.vocab_size)
    shapes = training_shapes(lengths, config.batch, config.microbatch, packed=packed)
    steps = [batches for _, batches in training_batches(rows, config.batch, 0, 1, 0, shapes)]
    step = functools.partial(accumulate, subject.model, subject.adapter, subject.base)

    def epoch() -> float:
        found = [step(batches, jax.random.key(0)) for batches in steps]
        return float(sum(loss for _, loss, _ in jax.block_until_ready(found)))

    described = {
        "padding": training_padding(lengths, config.batch, 0, 1, shapes),
        "shapes": sorted({batch.tokens_BT.shape for batches in steps for batch in batches}),
        "microbatches": sum(len(batches) for batches in steps),
    }
    return epoch, described


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    lines = [heading(result)]
    for part in result["settings"]["parts"].split(","):
        found = result[part]
        lines.append(
            f"\n{part}: {found['parameters']:,} parameters, {found['rows']:,} rows of at most "
            f"{found['longest']:,} tokens, {found['tokens']:,} in all"
        )
        lines.append(f"{'':<10}{'tokens/s':>10}{'padding':>10}{'shapes':>8}{'first call, s':>15}")
        for side, of_side in found["sides"].items():
            lines.append(
                f"{side:<10}{of_side['tokens_per_second']:>10,.0f}{of_side['padding']:>10.1%}"
                f"{len(of_side['shapes']):>8}{of_side['compile_seconds']:>15.1f}"
            )
        lines.append(f"packed is faster by {ranged(found['faster'])}")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
