"""AdamW by optax, its learning-rate schedules, and its moments as the features need them."""

from dataclasses import dataclass

import jax
import optax

from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule. `warmup` is the share of all steps in which the rate rises."""

    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    b1: float
    b2: float
    eps: float


@dataclass(frozen=True)
class Moments:
    """Adam's state at a checkpoint: step count t, first moment m and second moment v by leaf."""

    step: int
    first: Leaves
    second: Leaves


def adam_direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW without its learning rate, which the loop multiplies in: no recompile per schedule."""
    return optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


def learning_rates(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, for a run of so many steps."""
    warmup_steps = round(config.warmup * steps)
    decay_steps = max(steps - warmup_steps, 1)
    decays = {
        "linear": optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, decay_steps),
        "constant": optax.constant_schedule(config.learning_rate),
    }
    if config.schedule not in decays:
        raise InputError(
            f"schedule = {config.schedule!r} is unknown; choose one of {', '.join(decays)}"
        )
    if warmup_steps == 0:
        return decays[config.schedule]
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([rise, decays[config.schedule]], [warmup_steps])


def read_moments(state: optax.OptState) -> Moments:
    """Adam's moments out of an optimiser state that `adam_direction` made."""
    adam = state[0]
    return Moments(int(jax.device_get(adam.count)), adam.mu, adam.nu)
