"""The one training loop, for warm-up and fine-tune: LoRA values only, token-weighted loss."""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jax.sharding import Mesh, PartitionSpec

from g2is_jax.data.batches import (
    Batch,
    TrainingShapes,
    rows_of_step,
    steps_per_epoch,
    training_batches,
)
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import at_home, replicated
from g2is_jax.runs.metrics import MetricsLog, Progress
from g2is_jax.runs.processes import any_says, is_first, wait_for_all
from g2is_jax.runs.stopping import Stopped, asked_to_stop, finishing
from g2is_jax.training.checkpoints import Checkpoints, StoredCheckpoints, open_checkpoints
from g2is_jax.training.loss import batch_loss
from g2is_jax.training.optimizer import (
    Moments,
    OptimizerConfig,
    adam_direction,
    learning_rates,
    read_moments,
)

BETWEEN = "stopped"  # folder of a checkpoint that is not of an epoch's end


@dataclass(frozen=True)
class FitConfig:
    """How long and in which steps to train.

    batch_size: examples an optimiser step. microbatch_tokens: the most tokens, padding included,
    that go through a device at once; smaller batches are accumulated, which changes no result.
    keep_checkpoints: of the checkpoints, one an epoch, how many of the newest stay; 0 keeps all.
    packing: the shapes that go with it are for rows that share sequences, which without dropout
    changes no result.
    """

    epochs: int
    batch_size: int
    microbatch_tokens: int
    keep_checkpoints: int
    packing: bool
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
    ids: Sequence[str],
    mesh: Mesh | None = None,
    after_epoch: Callable[[int, Leaves], None] | None = None,
) -> tuple[Leaves, Moments]:
    """Train a fresh adapter; continue from the newest checkpoint in `folder` if there is one.

    Returns the adapter and Adam's moments after the last step. `shapes` are made for the
    devices of `mesh`, which share the rows of each microbatch. `after_epoch` is called with the
    epochs done and the adapter, again if the run was killed there. Raises InputError where loss or
    gradient is no longer a number, with the `ids` of the step's rows.
    """
    per_epoch = steps_per_epoch(len(encoded), config.batch_size)
    total = per_epoch * config.epochs
    rates = learning_rates(config.optimizer, total)
    adapter = model.init_adapter(seed)
    state = adam_direction(config.optimizer).init(adapter)
    checkpoints = open_checkpoints(folder / "checkpoints", keep=config.keep_checkpoints or None)
    done, (adapter, state) = _begun(checkpoints, folder / BETWEEN, adapter, state)
    log = MetricsLog(folder / "metrics.jsonl", start_step=done) if is_first() else None
    devices = 1
    if mesh is not None:
        devices = mesh.size
        adapter, state = jax.device_put((adapter, state), replicated(mesh))
        base = model.placed(base, mesh)
    batches = training_batches(
        encoded, config.batch_size, seed, config.epochs, done, shapes, devices
    )
    update = update_function(config.optimizer)
    with Progress("train", total, done=done, unit="steps") as progress, finishing():
        for step, microbatches in batches:
            key = jax.random.fold_in(jax.random.key(seed), step)
            gradients, loss, tokens = accumulate(model, adapter, base, microbatches, key, mesh)
            rate = float(rates(step))
            adapter, state = update(adapter, state, gradients, tokens, rate)
            mean = float(loss / jnp.maximum(tokens, 1))
            if not (math.isfinite(mean) and all_finite(gradients)):
                if log is not None:
                    log.flush()
                rows = rows_of_step(len(encoded), config.batch_size, seed, step)
                raise _diverged(step, mean, [ids[row] for row in rows], checkpoints, folder)
            if log is not None:
                log.write(step, loss=mean, tokens=int(tokens), learning_rate=rate)
            progress.advance()
            if (step + 1) % per_epoch == 0 and log is not None:
                if after_epoch is not None:
                    after_epoch((step + 1) // per_epoch, adapter)
                log.flush()
                checkpoints.save(step + 1, adapter, state, {"step": step + 1})
            if any_says(asked_to_stop()):
                _stop(step + 1, adapter, state, folder / BETWEEN, log)
    checkpoints.close()
    if is_first() and (folder / BETWEEN).exists():
        (folder / BETWEEN).rmtree()
    adapter, state = at_home((adapter, state))
    return adapter, read_moments(state)


def _begun(
    checkpoints: Checkpoints | StoredCheckpoints, between: epath.Path, adapter: Leaves, state: Any
) -> tuple[int, tuple[Leaves, Any]]:
    """Steps that are done, and adapter and optimiser state after them."""
    places = [checkpoints]
    if between.exists():
        places.append(open_checkpoints(between, keep=1))
    newest = max(places, key=lambda place: max(place.steps(), default=0))
    done = max(newest.steps(), default=0)
    found = newest.restore(done, adapter, state) if done else (adapter, state)
    for place in places[1:]:
        place.close()
    return done, found


def _stop(
    step: int, adapter: Leaves, state: Any, between: epath.Path, log: MetricsLog | None
) -> None:
    """Leave a checkpoint that is none of an epoch's, and stop."""
    if log is not None:
        log.flush()
        checkpoints = open_checkpoints(between, keep=1)
        if step not in checkpoints.steps():
            checkpoints.save(step, adapter, state, {"step": step})
        checkpoints.close()
    wait_for_all(f"stopped at {step}")
    raise Stopped


@jax.jit
def all_finite(leaves: Leaves) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves.values()]))


def _diverged(
    step: int,
    loss: float,
    ids: Sequence[str],
    checkpoints: Checkpoints | StoredCheckpoints,
    folder: epath.Path,
) -> InputError:
    """What to say where training cannot go on."""
    left = "there is no checkpoint yet"
    if steps := checkpoints.steps():
        left = f"the last good checkpoint is {folder / 'checkpoints' / str(steps[-1])}"
    what = "its gradient is not finite" if math.isfinite(loss) else f"its loss is {loss}"
    return InputError(
        f"{folder}: training stopped at step {step}: {what}; {left}; lower learning_rate or "
        f"lora.alpha, or look at the step's rows: {', '.join(ids)}"
    )


def accumulate(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    microbatches: Sequence[Batch],
    key: jax.Array,
    mesh: Mesh | None = None,
) -> tuple[Leaves, jax.Array, jax.Array]:
    """Summed gradient, summed loss and token count of one optimiser step.

    Dropout is drawn from the step's key and the row, so that no choice of microbatches changes it;
    of packed rows, from the first row of their sequence.
    """
    total: Any = None
    for batch in microbatches:
        part = gradient_function(model, mesh)(adapter, base, vars(batch), key)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


@functools.cache
def gradient_function(model: Model, mesh: Mesh | None = None) -> Callable:
    """Jitted (adapter, base, fields of a Batch, key) -> summed gradient, loss, tokens.

    On a mesh each device deals with its own rows, and the sums over the devices are on all of them.
    """

    def gradient(adapter, base, batch, key):
        rows_B, tokens_BT = batch["rows_B"], batch["tokens_BT"]
        keys_B = None
        if model.lora.dropout > 0:
            keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(rows_B)
        loss = functools.partial(batch_loss, model)
        (total, count), gradients = jax.value_and_grad(loss, has_aux=True)(
            adapter, base, tokens_BT, batch["supervised_BT"], keys_B, batch["segments_BT"]
        )
        return gradients, total, count

    if mesh is None:
        return jax.jit(gradient)

    def on_mesh(adapter, base, batch, key):
        def of_device(*arguments):
            return jax.lax.psum(gradient(*arguments), mesh.axis_names)

        everywhere = PartitionSpec()
        base_specs = {path: model.sharding(path, mesh).spec for path in base}
        specs = (everywhere, base_specs, PartitionSpec(mesh.axis_names), everywhere)
        return jax.shard_map(
            of_device, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False
        )(adapter, base, batch, key)

    return jax.jit(on_mesh)


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
    checkpoints = open_checkpoints(folder / "checkpoints", keep=config.keep_checkpoints or None)
    found = [checkpoints.restore(step, adapter, state, folder) for step in checkpoints.steps()]
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
