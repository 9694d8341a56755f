"""Per-example gradients of the adapter, their direction under the optimiser, and its projection."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import Plan, lay_out, length_batches
from g2is_jax.data.chat import Encoded
from g2is_jax.features.projection import ProjectionConfig, project
from g2is_jax.features.store import StoreWriter
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import Progress
from g2is_jax.training.loss import example_loss
from g2is_jax.training.optimizer import Moments

KINDS = ("sgd", "adam", "adam_less", "rms", "sign")


@dataclass(frozen=True)
class DirectionConfig:
    """The kind of feature, and the constants of the Adam that left the moments."""

    kind: str
    b1: float
    b2: float
    eps: float

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(
                f"feature kind {self.kind!r} is unknown; choose one of {', '.join(KINDS)}"
            )


class FeatureBatch(NamedTuple):
    """Features of a batch before normalisation, gradient norms |g| and supervised tokens."""

    features_BP: jax.Array
    gradient_norms_B: jax.Array
    tokens_B: jax.Array


def direction(
    config: DirectionConfig, g: jax.Array, m: jax.Array, v: jax.Array, step: jax.Array
) -> jax.Array:
    """What gradient g would add to the adapter, up to the learning rate; elementwise.

    `adam` is a textbook step with bias correction after `step` earlier ones (LESS, Eq. 1-2);
    `adam_less` is what LESS's released code computes: no correction, eps inside the root.
    """
    if config.kind == "sgd":
        return g
    if config.kind == "sign":
        return jnp.sign(g)
    u = config.b1 * m + (1 - config.b1) * g
    w = config.b2 * v + (1 - config.b2) * g**2
    if config.kind == "adam_less":
        return u / jnp.sqrt(w + config.eps)
    after = step.astype(jnp.float32) + 1
    root = jnp.sqrt(w / (1 - config.b2**after)) + config.eps
    return g / root if config.kind == "rms" else u / (1 - config.b1**after) / root


@functools.cache
def feature_function(
    model: Model, config: DirectionConfig, projection: ProjectionConfig
) -> Callable[..., FeatureBatch]:
    """Jitted (adapter, base, m, v, step, tokens_BT, supervised_BT) -> FeatureBatch."""

    def mean_loss(adapter, base, tokens_T, supervised_T):
        total, count = example_loss(model, adapter, base, tokens_T, supervised_T)
        return total / jnp.maximum(count, 1), count

    def features(adapter, base, first, second, step, tokens_BT, supervised_BT):
        gradient = jax.grad(mean_loss, has_aux=True)
        leaves_B, tokens_B = jax.vmap(gradient, in_axes=(None, None, 0, 0))(
            adapter, base, tokens_BT, supervised_BT
        )
        squares = [jnp.sum(g**2, axis=range(1, g.ndim)) for g in leaves_B.values()]
        one = functools.partial(direction, config)
        directions_B = {
            path: jax.vmap(one, in_axes=(0, None, None, None))(g, first[path], second[path], step)
            for path, g in leaves_B.items()
        }
        return FeatureBatch(project(projection, directions_B), jnp.sqrt(sum(squares)), tokens_B)

    return jax.jit(features)


def extract(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    moments: Moments,
    encoded: Sequence[Encoded],
    config: DirectionConfig,
    projection: ProjectionConfig,
    batch_tokens: int,
    writer: StoreWriter,
) -> None:
    """Write one feature row for each example to the store; chunks already there are kept.

    batch_tokens: tokens, padding included, that go through the model at once.
    """
    compute = functools.partial(
        feature_function(model, config, projection),
        adapter,
        base,
        moments.first,
        moments.second,
        jnp.asarray(moments.step),
    )
    chunks = _chunks(length_batches(encoded, batch_tokens), writer.chunk_rows)
    done = writer.start([np.concatenate([plan.rows for plan in plans]) for plans in chunks])
    sizes = [sum(len(plan.rows) for plan in plans) for plans in chunks]
    kept = sum(size for size, is_done in zip(sizes, done, strict=True) if is_done)
    with Progress(f"gradients ({config.kind})", len(encoded), done=kept) as progress:
        for index, plans in enumerate(chunks):
            if done[index]:
                continue
            batches = [_run_plan(compute, encoded, plan) for plan in plans]
            writer.write(index, *(np.concatenate(parts) for parts in zip(*batches, strict=True)))
            progress.advance(sizes[index])


def _run_plan(compute: Callable, encoded: Sequence[Encoded], plan: Plan) -> tuple[np.ndarray, ...]:
    batch = lay_out(encoded, plan)
    result = compute(batch.tokens_BT, batch.supervised_BT)
    real_B = batch.rows_B >= 0
    return tuple(np.asarray(part)[real_B] for part in result)


def _chunks(plans: Sequence[Plan], chunk_rows: int) -> list[list[Plan]]:
    """Consecutive batches in chunks of at least `chunk_rows` rows (the last may be smaller)."""
    chunks: list[list[Plan]] = [[]]
    for plan in plans:
        if sum(len(p.rows) for p in chunks[-1]) >= chunk_rows:
            chunks.append([])
        chunks[-1].append(plan)
    return [chunk for chunk in chunks if chunk]
