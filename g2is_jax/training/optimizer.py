"""AdamW by optax: settings, learning-rate schedules, and the moments that the features need."""

import math
from dataclasses import dataclass

import jax
import optax

from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError

SCHEDULES = ("linear", "cosine", "constant")


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

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule = {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}"
            )
        for field in ("learning_rate", "eps"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(f"{field} = {getattr(self, field)}; it must be above 0")
        for field in ("b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f"{field} = {getattr(self, field)}; it must be from 0 to below 1")
        if not 0 <= self.warmup <= 1:
            raise InputError(
                f"warmup = {self.warmup}; it must be from 0 to 1, a share of the steps"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay = {self.weight_decay}; it must be 0 or more")


@dataclass(frozen=True)
class Moments:
    """Adam's state at a checkpoint: step count t, and first and second moments m, v by leaf."""

    step: int
    first: Leaves
    second: Leaves


def adam_direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW without its learning rate, which the loop applies: schedules share one program."""
    return optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


def learning_rates(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, for a run of `steps` steps."""
    warmup_steps = round(config.warmup * steps)
    decay_steps = max(steps - warmup_steps, 1)
    decays = {
        "linear": optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, decay_steps),
        "constant": optax.constant_schedule(config.learning_rate),
    }
    if warmup_steps == 0:
        return decays[config.schedule]
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([rise, decays[config.schedule]], [warmup_steps])


def read_moments(state: optax.OptState) -> Moments:
    """Reads Adam's moments from an optimiser state that `adam_direction` made."""
    adam = state[0]
    return Moments(int(jax.device_get(adam.count)), adam.mu, adam.nu)
