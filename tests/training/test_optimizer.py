"""The loop's AdamW against optax's own, the schedules, and the moments that the features read."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.training.optimizer import adam_direction, learning_rates, read_moments
from g2is_jax.training.steps import update_function
from tests.support.tiny_models import random_leaves
from tests.support.tiny_training import ADAMW

SHAPES = {"layers.000.a.lora_A": (3, 5), "layers.000.a.lora_B": (7, 3)}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_update_equals_optax_adamw(schedule, weight_decay):
    """Several steps from summed gradients, token counts and the schedule's rates agree."""
    config = replace(ADAMW, schedule=schedule, weight_decay=weight_decay)
    rates = learning_rates(config, 10)
    oracle = optax.adamw(
        rates, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=weight_decay
    )
    ours, theirs = random_leaves(SHAPES), random_leaves(SHAPES)
    state, their_state = adam_direction(config).init(ours), oracle.init(theirs)
    for step in range(10):
        mean, tokens = random_leaves(SHAPES, seed=step + 1), 5 + step
        summed = {path: leaf * tokens for path, leaf in mean.items()}
        rate = float(rates(step))
        sums = (summed, jnp.float32(3.5 * tokens), jnp.int32(tokens))
        ours, state, outcome = update_function(config)(ours, state, *sums, rate)
        assert (float(outcome.loss), int(outcome.tokens), bool(outcome.finite)) == (3.5, tokens, 1)
        updates, their_state = oracle.update(mean, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        for path, leaf in theirs.items():
            np.testing.assert_allclose(ours[path], leaf, rtol=1e-5, atol=1e-6)


def test_another_rate_does_not_recompile():
    config = replace(ADAMW, eps=1e-7)
    adapter = random_leaves(SHAPES)
    state = adam_direction(config).init(adapter)
    for rate in (0.0, 0.5, 1e-5):
        sums = (random_leaves(SHAPES, 1), jnp.float32(1.0), jnp.int32(3))
        adapter, state, _ = update_function(config)(adapter, state, *sums, rate)
    assert update_function(config)._cache_size() == 1


def test_update_takes_the_arrays_that_it_is_given():
    """There is room for one adapter and one state, however many steps are dispatched."""
    adapter = random_leaves(SHAPES)
    state = adam_direction(ADAMW).init(adapter)
    sums = (random_leaves(SHAPES, 1), jnp.float32(1.0), jnp.int32(3))
    after = update_function(ADAMW)(adapter, state, *sums, 0.5)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((adapter, state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((sums, after)))


def test_moments_are_adams():
    """m, v and the count of steps after two steps are those computed by hand."""
    first, second = random_leaves(SHAPES, 1), random_leaves(SHAPES, 2)
    direction = adam_direction(ADAMW)
    state = direction.init(first)
    assert read_moments(state).step == 0
    for gradient in (first, second):
        _, state = direction.update(gradient, state, first)
    moments = read_moments(jax.device_get(state))
    assert moments.step == 2
    assert type(moments.step) is int
    for path in SHAPES:
        m = 0.9 * 0.1 * first[path] + 0.1 * second[path]
        v = 0.99 * 0.01 * first[path] ** 2 + 0.01 * second[path] ** 2
        np.testing.assert_allclose(moments.first[path], m, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moments.second[path], v, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("linear", 0.5, 0.0), ("cosine", 0.5, 0.0), ("constant", 1.0, 1.0)],
)
def test_schedules(schedule, middle, end):
    """The rate rises from 0 to the peak in the first fifth, then falls to its end."""
    rates = learning_rates(replace(ADAMW, schedule=schedule, warmup=0.2), 100)
    peak = ADAMW.learning_rate
    expected = {0: 0.0, 10: peak / 2, 20: peak, 60: middle * peak, 100: end * peak}
    for step, rate in expected.items():
        assert float(rates(step)) == pytest.approx(rate, abs=1e-8), step
    falling = [float(rates(step)) for step in range(20, 101)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_no_warmup_starts_at_the_peak(schedule):
    """A share of warm-up below half a step is none; also in a run of one step."""
    for warmup, steps in ((0.0, 50), (0.03, 10), (0.0, 1)):
        rates = learning_rates(replace(ADAMW, schedule=schedule, warmup=warmup), steps)
        assert float(rates(0)) == pytest.approx(ADAMW.learning_rate)


def test_cosine_is_not_linear():
    linear, cosine = (
        learning_rates(replace(ADAMW, schedule=name, warmup=0.0), 100)
        for name in ("linear", "cosine")
    )
    assert float(linear(25)) == pytest.approx(0.75 * ADAMW.learning_rate)
    expected = 0.5 * (1 + np.cos(np.pi / 4)) * ADAMW.learning_rate
    assert float(cosine(25)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schedule", "step", "'step' is unknown; choose one of linear, cosine, constant"),
        ("learning_rate", 0.0, "must be above 0"),
        ("eps", float("inf"), "must be above 0"),
        ("b1", 1.0, "must be from 0 to below 1"),
        ("b2", -0.1, "must be from 0 to below 1"),
        ("warmup", 1.5, "must be from 0 to 1"),
        ("weight_decay", -0.1, "must be 0 or more"),
    ],
)
def test_unusable_setting_is_named(field, value, message):
    with pytest.raises(InputError, match=f"{field} = .*{message}"):
        replace(ADAMW, **{field: value})
