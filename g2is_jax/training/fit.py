"""The training loop of warm-up and fine-tune: LoRA values only, token-weighted loss."""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Wrapped

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
from g2is_jax.runs.ahead import ahead
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import any_says_soon, at_home, replicated
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

IN_FLIGHT = 3  # steps: the first is computed, and read, while the device has the others to do
AT_STOP = "stopped"  # folder of the checkpoint that a stopped run leaves, at any step


@dataclass(frozen=True)
class FitConfig:
    """The length of a training run and the size of its steps.

    batch_size: examples an optimiser step. microbatch_tokens: the most tokens, padding included,
    that go through a device at once; smaller batches are accumulated, which changes no result.
    keep_checkpoints: how many of the newest checkpoints, one an epoch, stay; 0 keeps all.
    packing: rows share sequences, in shapes made for that, which changes no result either.
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
    """Trains a fresh adapter; continues from the newest checkpoint in `folder` if there is one.

    Returns the adapter and Adam's moments after the last step. `shapes` are made for the devices of
    `mesh`, which share the rows of each microbatch. `after_epoch` is called with the epochs done
    and the adapter, which it may not keep, and again if the run was killed there. InputError names
    the step and the `ids` of its rows if loss or gradient is no longer a number.
    """
    per_epoch = steps_per_epoch(len(encoded), config.batch_size)
    total = per_epoch * config.epochs
    rate_of = learning_rates(config.optimizer, total)
    adapter, state, checkpoints = _fresh(model, config, seed, folder)
    done, (adapter, state) = _newest(model, checkpoints, folder / AT_STOP, adapter, state)
    log = MetricsLog(folder / "metrics.jsonl", start_step=done) if is_first() else None
    if mesh is not None:
        adapter, state = jax.device_put((adapter, state), replicated(mesh))
        base = model.placed(base, mesh)
    run = _Run(adapter, state, done)
    del adapter, state  # the first update takes their arrays
    batches = training_batches(encoded, config.batch_size, seed, config.epochs, done, shapes)
    # Known before the first step: a rate is computed on the device, behind the steps before it.
    rates = {step: float(rate_of(step)) for step in range(done, total)}
    take = _step_function(model, base, config.optimizer, seed, rates, mesh)
    with Progress("train", total, done=done, unit="steps") as progress, finishing():
        while run.done < total:
            for step, outcome in ahead(run.steps(take, batches, per_epoch), IN_FLIGHT):
                loss, tokens, finite = jax.device_get(outcome)
                if not finite:
                    rows = rows_of_step(len(encoded), config.batch_size, seed, step)
                    where = (step, float(loss), [ids[row] for row in rows])
                    _raise_diverged(*where, checkpoints, folder, log)
                if log is not None:
                    log.write(step, loss=loss, tokens=tokens, learning_rate=rates[step])
                progress.advance()
            if run.done % per_epoch == 0 and log is not None:
                if after_epoch is not None:
                    after_epoch(run.done // per_epoch, run.adapter)
                log.flush()
                _save(model, checkpoints, run.done, run.adapter, run.state)
            if any_says(asked_to_stop()):
                _stop(model, run.done, run.adapter, run.state, folder / AT_STOP, log)
    checkpoints.close()
    if is_first() and (folder / AT_STOP).exists():
        (folder / AT_STOP).rmtree()
    adapter, state = at_home((run.adapter, run.state))
    return adapter, read_moments(state)


class Outcome(NamedTuple):
    """A step's mean loss over its supervised tokens, their number, and whether loss and gradient
    are finite; on the device, and there once the step is computed."""

    loss: jax.Array
    tokens: jax.Array
    finite: jax.Array


@dataclass
class _Run:
    """Adapter and optimiser state after the steps that are dispatched, computed or not.

    Each step takes the arrays of the one before, so nobody else may keep them.
    """

    adapter: Leaves
    state: Any
    done: int

    def steps(
        self, take: Callable, batches: Iterator[tuple[int, list[Batch]]], per_epoch: int
    ) -> Iterator[tuple[int, Outcome]]:
        """Dispatches the rest of an epoch, or what comes before some process is asked to stop."""
        for step, microbatches in batches:
            stop_asked = any_says_soon(asked_to_stop)
            self.adapter, self.state, outcome = take(self.adapter, self.state, step, microbatches)
            self.done = step + 1
            yield step, outcome
            if self.done % per_epoch == 0 or stop_asked():
                return


def _step_function(
    model: Model,
    base: Leaves,
    optimizer: OptimizerConfig,
    seed: int,
    rates: Mapping[int, float],
    mesh: Mesh | None,
) -> Callable[[Leaves, Any, int, Sequence[Batch]], tuple[Leaves, Any, Outcome]]:
    """Returns (adapter, state, step, microbatches) -> adapter, state, Outcome, which waits for
    nothing; the arrays of the adapter and the state that it is given are gone afterwards."""
    update = update_function(optimizer)

    def take(adapter: Leaves, state: Any, step: int, microbatches: Sequence[Batch]):
        key = jax.random.fold_in(jax.random.key(seed), step)
        summed = accumulate(model, adapter, base, microbatches, key, mesh)
        return update(adapter, state, *summed, rates[step])

    return take


def _fresh(
    model: Model, config: FitConfig, seed: int, folder: epath.Path
) -> tuple[Leaves, Any, Checkpoints | StoredCheckpoints]:
    """Returns a fresh adapter, its optimiser state, and the checkpoints of its training."""
    adapter = model.init_adapter(seed)
    checkpoints = open_checkpoints(folder / "checkpoints", keep=config.keep_checkpoints or None)
    return adapter, adam_direction(config.optimizer).init(adapter), checkpoints


def _by_layer(model: Model, tree: Any) -> Any:
    """Returns what a checkpoint holds of adapter or optimiser state: each layer under its path."""
    return _of_leaves(model.adapter_layout.by_layer, tree)


def _of_leaves(change: Callable[[Leaves], Leaves], tree: Any) -> Any:
    """Returns the tree with its dictionaries of leaves changed."""

    def is_leaves(node: Any) -> bool:
        return isinstance(node, dict)

    return jax.tree.map(lambda x: change(x) if is_leaves(x) else x, tree, is_leaf=is_leaves)


def _save(
    model: Model,
    checkpoints: Checkpoints | StoredCheckpoints,
    step: int,
    adapter: Leaves,
    state: Any,
) -> None:
    position = {"step": step}
    checkpoints.save(step, _by_layer(model, adapter), _by_layer(model, state), position)


def _restore(
    model: Model,
    checkpoints: Checkpoints | StoredCheckpoints,
    step: int,
    like: tuple[Leaves, Any],
    folder: epath.Path | None = None,
) -> tuple[Leaves, Any]:
    """Returns adapter and optimiser state of a step, in the form of `like`."""
    adapter, state = jax.eval_shape(functools.partial(_by_layer, model), like)
    held = checkpoints.restore(step, adapter, state, folder)
    return _of_leaves(model.adapter_layout.stacked, held)


def _newest(
    model: Model,
    checkpoints: Checkpoints | StoredCheckpoints,
    at_stop: epath.Path,
    adapter: Leaves,
    state: Any,
) -> tuple[int, tuple[Leaves, Any]]:
    """Returns the steps done, and adapter and optimiser state after them."""
    places = [checkpoints]
    if at_stop.exists():
        places.append(open_checkpoints(at_stop, keep=1))
    newest = max(places, key=lambda place: max(place.steps(), default=0))
    done = max(newest.steps(), default=0)
    found = _restore(model, newest, done, (adapter, state)) if done else (adapter, state)
    for place in places[1:]:
        place.close()
    return done, found


def _stop(
    model: Model,
    step: int,
    adapter: Leaves,
    state: Any,
    at_stop: epath.Path,
    log: MetricsLog | None,
) -> NoReturn:
    """Leaves a checkpoint in the folder `at_stop`, and stops."""
    if log is not None:
        log.flush()
        checkpoints = open_checkpoints(at_stop, keep=1)
        if step not in checkpoints.steps():
            _save(model, checkpoints, step, adapter, state)
        checkpoints.close()
    wait_for_all(f"stopped at {step}")
    raise Stopped


def _raise_diverged(
    step: int,
    loss: float,
    ids: Sequence[str],
    checkpoints: Checkpoints | StoredCheckpoints,
    folder: epath.Path,
    log: MetricsLog | None,
) -> NoReturn:
    """Raises InputError, with the last good checkpoint and the step's rows, after a flush."""
    if log is not None:
        log.flush()
    left = "there is no checkpoint yet"
    if steps := checkpoints.steps():
        left = f"the last good checkpoint is {folder / 'checkpoints' / str(steps[-1])}"
    reason = "its gradient is not finite" if math.isfinite(loss) else f"its loss is {loss}"
    raise InputError(
        f"{folder}: training stopped at step {step}: {reason}; {left}; lower learning_rate or "
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
    """Returns summed gradient, summed loss and token count of one optimiser step.

    Dropout is drawn from the step's key, the row, and the token's place in it, so that no choice of
    microbatches, nor packing, changes it.
    """
    total: Any = None
    for batch in microbatches:
        part = gradient_function(model, mesh)(adapter, base, vars(batch), key)
        total = part if total is None else _added(total, part)
    return total


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, part: Any) -> Any:
    """Adds two trees in one program; one for each leaf would keep the host busy."""
    return jax.tree.map(jnp.add, total, part)


@functools.cache
def gradient_function(model: Model, mesh: Mesh | None = None) -> Wrapped:
    """Returns jitted (adapter, base, fields of a Batch, key) -> summed gradient, loss, tokens.

    On a mesh each device computes its own rows, and each one has the sums over all devices.
    """

    def gradient(shared, base, batch):
        adapter, key = shared
        rows_B, tokens_BT = batch["rows_B"], batch["tokens_BT"]
        keys = None
        if model.lora.dropout > 0:
            rows = rows_B if batch["segments_BT"] is None else batch["segments_BT"]
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(rows.reshape(-1))
            keys = keys.reshape(rows.shape)
        loss = functools.partial(batch_loss, model)
        (total, count), gradients = jax.value_and_grad(loss, has_aux=True)(
            adapter, base, tokens_BT, batch["supervised_BT"], keys, batch["segments_BT"]
        )
        return gradients, total, count

    def summed(*arguments):
        found = gradient(*arguments)
        return found if mesh is None else jax.lax.psum(found, mesh.axis_names)

    run = model.over_rows(summed, mesh, PartitionSpec())
    return jax.jit(lambda adapter, base, batch, key: run((adapter, key), base, batch))


@functools.cache
def update_function(config: OptimizerConfig) -> Callable:
    """Returns jitted (adapter, state, summed gradients, summed loss, token count, rate) -> adapter,
    state, Outcome. The arrays of the adapter and the state that it is given are gone afterwards.
    """
    direction = adam_direction(config)

    def update(adapter, state, gradients, loss, tokens, rate):
        count = jnp.maximum(tokens, 1)
        mean = jax.tree.map(lambda leaf: leaf / count, gradients)
        steps, state = direction.update(mean, state, adapter)
        adapter = optax.apply_updates(adapter, jax.tree.map(lambda s: -rate * s, steps))
        loss = loss / count
        sound = [jnp.all(jnp.isfinite(leaf)) for leaf in (loss, *gradients.values())]
        return adapter, state, Outcome(loss, tokens, jnp.all(jnp.stack(sound)))

    return jax.jit(update, donate_argnums=(0, 1))


def load_trained(
    model: Model, config: FitConfig, seed: int, folder: epath.Path
) -> list[tuple[Leaves, Moments]]:
    """Returns adapter and moments of each checkpoint that `fit` left in a folder, oldest first."""
    adapter, state, checkpoints = _fresh(model, config, seed, folder)
    found = [
        _restore(model, checkpoints, step, (adapter, state), folder) for step in checkpoints.steps()
    ]
    checkpoints.close()
    return [(adapter, read_moments(state)) for adapter, state in found]


def mean_rates(folder: epath.Path, steps: Sequence[int], epochs: int) -> list[float]:
    """Returns the mean learning rate of the epoch that ended at each step, from the log of `fit`.

    LESS weighs the checkpoints by it.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    per_epoch = len(rates) // epochs
    return [sum(rates[step - per_epoch : step]) / per_epoch for step in steps]
