"""The training loop of warm-up and fine-tune: LoRA values, or all weights; token-weighted loss."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
from etils import epath
from jax.sharding import Mesh

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
from g2is_jax.runs.mesh import any_says_soon, at_home
from g2is_jax.runs.metrics import MetricsLog, Progress
from g2is_jax.runs.processes import any_says, is_first, wait_for_all
from g2is_jax.runs.stopping import Stopped, asked_to_stop, finishing
from g2is_jax.training.optimizer import Moments, OptimizerConfig, learning_rates, read_moments
from g2is_jax.training.saved import Saved, State, fresh, newest
from g2is_jax.training.steps import Outcome, on_devices, step_function

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
    """Trains a fresh adapter, or all weights of a model without one; continues from the newest
    checkpoint in `folder` if there is one.

    Returns the adapter and Adam's moments after the last step. `shapes` are made for the devices of
    `mesh`, which share the rows of each microbatch. `after_epoch` is called with the epochs done
    and the adapter, which it may not keep, and again if the run was killed there. InputError names
    the step and the `ids` of its rows if loss or gradient is no longer a number.
    """
    per_epoch = steps_per_epoch(len(encoded), config.batch_size)
    total = per_epoch * config.epochs
    rate_of = learning_rates(config.optimizer, total)
    saved = _saved(model, config, folder)
    done, (adapter, state) = _newest(model, config, seed, base, saved, folder / AT_STOP)
    log = MetricsLog(folder / "metrics.jsonl", start_step=done) if is_first() else None
    if not model.adapter_shapes:
        base = {}
    if mesh is not None:
        adapter, state = on_devices(model, (adapter, state), mesh)
        base = model.placed(base, mesh)
    run = _Run(adapter, state, done)
    del adapter, state  # the first update takes their arrays
    batches = training_batches(encoded, config.batch_size, seed, config.epochs, done, shapes)
    # Known before the first step: a rate is computed on the device, behind the steps before it.
    rates = {step: float(rate_of(step)) for step in range(done, total)}
    take = step_function(model, base, config.optimizer, seed, rates, mesh)
    with Progress("train", total, done=done, unit="steps") as progress, finishing():
        while run.done < total:
            for step, outcome in ahead(run.steps(take, batches, per_epoch), IN_FLIGHT):
                loss, tokens, finite = jax.device_get(outcome)
                if not finite:
                    rows = rows_of_step(len(encoded), config.batch_size, seed, step)
                    where = (step, float(loss), [ids[row] for row in rows])
                    _raise_diverged(*where, saved, folder, log)
                if log is not None:
                    log.write(step, loss=loss, tokens=tokens, learning_rate=rates[step])
                progress.advance()
            if run.done % per_epoch == 0 and log is not None:
                if after_epoch is not None:
                    after_epoch(run.done // per_epoch, run.adapter)
                log.flush()
                saved.save(run.done, (run.adapter, run.state))
            if any_says(asked_to_stop()):
                _stop(model, run, folder / AT_STOP, log)
    saved.close()
    if is_first() and (folder / AT_STOP).exists():
        (folder / AT_STOP).rmtree()
    adapter, state = at_home((run.adapter, run.state))
    return adapter, read_moments(state)


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


def _saved(model: Model, config: FitConfig, folder: epath.Path) -> Saved:
    keep = config.keep_checkpoints or None
    return Saved(model.trained_layout, folder / "checkpoints", keep)


def _newest(
    model: Model,
    config: FitConfig,
    seed: int,
    base: Leaves,
    saved: Saved,
    at_stop: epath.Path,
) -> tuple[int, State]:
    """Returns the steps done and the state after them: fresh, or of the newest checkpoint."""
    state = fresh(model, config.optimizer, seed, base)
    if not at_stop.exists():
        return newest([saved], state)
    stopped = Saved(model.trained_layout, at_stop, keep=1)
    found = newest([saved, stopped], state)
    stopped.close()
    return found


def _stop(model: Model, run: _Run, at_stop: epath.Path, log: MetricsLog | None) -> NoReturn:
    """Leaves a checkpoint in the folder `at_stop`, and stops."""
    if log is not None:
        log.flush()
        saved = Saved(model.trained_layout, at_stop, keep=1)
        if run.done not in saved.steps():
            saved.save(run.done, (run.adapter, run.state))
        saved.close()
    wait_for_all(f"stopped at {run.done}")
    raise Stopped


def _raise_diverged(
    step: int,
    loss: float,
    ids: Sequence[str],
    saved: Saved,
    folder: epath.Path,
    log: MetricsLog | None,
) -> NoReturn:
    """Raises InputError, with the last good checkpoint and the step's rows, after a flush."""
    if log is not None:
        log.flush()
    left = "there is no checkpoint yet"
    if steps := saved.steps():
        left = f"the last good checkpoint is {folder / 'checkpoints' / str(steps[-1])}"
    reason = "its gradient is not finite" if math.isfinite(loss) else f"its loss is {loss}"
    raise InputError(
        f"{folder}: training stopped at step {step}: {reason}; {left}; lower learning_rate or "
        f"lora.alpha, or look at the step's rows: {', '.join(ids)}"
    )


def load_trained(
    model: Model, config: FitConfig, seed: int, folder: epath.Path
) -> list[tuple[Leaves, Moments]]:
    """Returns adapter and moments of each checkpoint that `fit` left in a folder, oldest first."""
    saved, like = _saved(model, config, folder), fresh(model, config.optimizer, seed, {})
    found = [saved.restore(step, like, folder) for step in saved.steps()]
    saved.close()
    return [(adapter, read_moments(state)) for adapter, state in found]


def mean_rates(folder: epath.Path, steps: Sequence[int], epochs: int) -> list[float]:
    """Returns the mean learning rate of the epoch that ended at each step, from the log of `fit`.

    LESS weighs the checkpoints by it.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    per_epoch = len(rates) // epochs
    return [sum(rates[step - per_epoch : step]) / per_epoch for step in steps]
