"""The one training loop, for warm-up and fine-tune: LoRA values only, token-weighted loss."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from g2is_jax.data.batches import Batch, TrainingShapes, steps_per_epoch, training_batches
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import MetricsLog, Progress
from g2is_jax.training.checkpoints import Checkpoints
from g2is_jax.training.loss import batch_loss
from g2is_jax.training.optimizer import (
    Moments,
    OptimizerConfig,
    adam_direction,
    learning_rates,
    read_moments,
)


@dataclass(frozen=True)
class FitConfig:
    """How long and in which steps to train.

    batch_size: examples an optimiser step. microbatch_tokens: the most tokens, padding included,
    that go through the model at once; smaller batches are accumulated, which changes no result.
    keep_checkpoints: of the checkpoints, one an epoch, how many of the newest stay; 0 keeps all.
    """

    epochs: int
    batch_size: int
    microbatch_tokens: int
    keep_checkpoints: int
    optimizer: OptimizerConfig

    def __post_init__(self):
        least = {"epochs": 1, "batch_size": 1, "microbatch_tokens": 1, "keep_checkpoints": 0}
        for field, lowest in least.items():
            if getattr(self, field) < lowest:
                raise InputError(f"{field} = {getattr(self, field)}; it must be at least {lowest}")


def fit(
    model: Model,
    base: Leaves,
    encoded: Sequence[Encoded],
    shapes: TrainingShapes,
    config: FitConfig,
    seed: int,
    folder: epath.Path,
) -> tuple[Leaves, Moments]:
    """Train a fresh adapter; continue from the newest checkpoint in `folder` if there is one.

    Returns the adapter and Adam's moments after the last step.
    """
    per_epoch = steps_per_epoch(len(encoded), config.batch_size)
    total = per_epoch * config.epochs
    rates = learning_rates(config.optimizer, total)
    adapter = model.init_adapter(seed)
    state = adam_direction(config.optimizer).init(adapter)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep_checkpoints or None)
    done = max(checkpoints.steps(), default=0)
    if done:
        adapter, state = checkpoints.restore(done, adapter, state)
    log = MetricsLog(folder / "metrics.jsonl", start_step=done)
    batches = training_batches(encoded, config.batch_size, seed, config.epochs, done, shapes)
    update = update_function(config.optimizer)
    with Progress("train", total, done=done, unit="steps") as progress:
        for step, microbatches in batches:
            key = jax.random.fold_in(jax.random.key(seed), step)
            gradients, loss, tokens = accumulate(model, adapter, base, microbatches, key)
            rate = float(rates(step))
            adapter, state = update(adapter, state, gradients, tokens, rate)
            mean = float(loss / jnp.maximum(tokens, 1))
            log.write(step, loss=mean, tokens=int(tokens), learning_rate=rate)
            progress.advance()
            if (step + 1) % per_epoch == 0:
                checkpoints.save(step + 1, adapter, state, {"step": step + 1})
    checkpoints.close()
    return adapter, read_moments(state)


def accumulate(
    model: Model, adapter: Leaves, base: Leaves, microbatches: Sequence[Batch], key: jax.Array
) -> tuple[Leaves, jax.Array, jax.Array]:
    """Summed gradient, summed loss and token count of one optimiser step.

    Dropout is drawn from the step's key and the row, so that no choice of microbatches changes it.
    """
    total: Any = None
    for batch in microbatches:
        part = gradient_function(model)(
            adapter, base, batch.tokens_BT, batch.supervised_BT, batch.rows_B, key
        )
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


@functools.cache
def gradient_function(model: Model) -> Callable:
    """Jitted (adapter, base, tokens, supervised, rows, key) -> summed gradient, loss, tokens."""

    def gradient(adapter, base, tokens_BT, supervised_BT, rows_B, key):
        keys_B = None
        if model.lora.dropout > 0:
            keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(rows_B)
        loss = functools.partial(batch_loss, model)
        (total, count), gradients = jax.value_and_grad(loss, has_aux=True)(
            adapter, base, tokens_BT, supervised_BT, keys_B
        )
        return gradients, total, count

    return jax.jit(gradient)


@functools.cache
def update_function(config: OptimizerConfig) -> Callable:
    """Jitted (adapter, state, summed gradients, token count, rate) -> adapter, state."""
    direction = adam_direction(config)

    def update(adapter, state, gradients, tokens, rate):
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(tokens, 1), gradients)
        steps, state = direction.update(mean, state, adapter)
        return optax.apply_updates(adapter, jax.tree.map(lambda s: -rate * s, steps)), state

    return jax.jit(update)


def load_trained(
    model: Model, config: FitConfig, seed: int, folder: epath.Path
) -> list[tuple[Leaves, Moments]]:
    """Adapter and moments of each checkpoint that `fit` left in a finished folder, oldest first."""
    adapter = model.init_adapter(seed)
    state = adam_direction(config.optimizer).init(adapter)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep_checkpoints or None)
    found = [checkpoints.restore(step, adapter, state) for step in checkpoints.steps()]
    checkpoints.close()
    return [(adapter, read_moments(state)) for adapter, state in found]


def mean_rates(folder: epath.Path, steps: Sequence[int], epochs: int) -> list[float]:
    """Mean learning rate of the epoch that ended at each of these steps, from the log of `fit`.

    What LESS weighs the checkpoints by.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    per_epoch = len(rates) // epochs
    return [sum(rates[step - per_epoch : step]) / per_epoch for step in steps]
