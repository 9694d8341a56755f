"""Projections are linear, unbiased, exact functions of (seed, leaf path, position).

About heavy coordinates: one rotated block (`repetitions` = 1) keeps a single coordinate's length
exactly, but two heavy coordinates that meet are confused wholly, with probability 1 / P. More
repetitions leave the mean squared error as it is and make it many small errors instead.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.features.projection import (
    ProjectionConfig,
    add_leaf,
    empty_sum,
    finished,
    fold,
    in_two_parts,
    random_bits,
    times_signs,
)
from g2is_jax.runs.errors import InputError
from tests.support.documented_projection import documented_matrix
from tests.support.projected import project

PATHS = ("layers.000.self_attn.k_proj.lora_A", "layers.001.self_attn.k_proj.lora_A")
RADEMACHER = ProjectionConfig("rademacher", 77, repetitions=1)
SKETCH = ProjectionConfig("sketch", 77, repetitions=3)
NONE = ProjectionConfig("none", 0, repetitions=1)
BOTH = pytest.mark.parametrize("config", [RADEMACHER, SKETCH], ids=lambda config: config.kind)
EVERY = pytest.mark.parametrize("config", [RADEMACHER, SKETCH, NONE], ids=lambda c: c.kind)


SEED = 5


@functools.cache
def jitted(config: ProjectionConfig, seed: int = SEED):
    return jax.jit(functools.partial(project, config, seed))


def two_leaves(batch: int = 6, values: int = 273) -> dict[str, jax.Array]:
    """1,113 values: no multiple of the width, of 32 or of a block of signs."""
    rng = np.random.default_rng(batch)
    shapes = {PATHS[1]: (3, 7), PATHS[0]: (4, values)}
    return {p: jnp.asarray(rng.normal(size=(batch, *s)), "float32") for p, s in shapes.items()}


def flattened(leaves: dict) -> np.ndarray:
    return np.concatenate([np.asarray(leaves[p]).reshape(len(leaves[p]), -1) for p in PATHS], 1)


@BOTH
@pytest.mark.parametrize("width", [77, 64], ids=["odd width", "whole words"])
def test_is_a_product_with_the_documented_matrix(config, width):
    """The leaves have several blocks of every kind, and a part of one."""
    config = dataclasses.replace(config, width=width)
    leaves = two_leaves(values=1273)
    matrices = [documented_matrix(config, SEED, path, leaves[path][0].size) for path in PATHS]
    expected = flattened(leaves) @ np.concatenate(matrices)
    rows = np.asarray(jitted(config)(leaves))
    assert rows.shape == (6, width)
    assert np.linalg.norm(rows - expected) < 1e-6 * np.linalg.norm(expected)


def test_none_concatenates_in_canonical_order():
    leaves = two_leaves()
    assert list(leaves) != sorted(leaves)
    np.testing.assert_array_equal(project(NONE, SEED, leaves), flattened(leaves))


@EVERY
def test_linear(config):
    x, y = two_leaves(6), {p: leaf[:6] for p, leaf in two_leaves(7).items()}
    both = {path: 3 * x[path] - 0.25 * y[path] for path in PATHS}
    expected = 3 * jitted(config)(x) - 0.25 * jitted(config)(y)
    np.testing.assert_allclose(jitted(config)(both), expected, rtol=0, atol=3e-5)


@pytest.mark.usefixtures("optimised")
@EVERY
def test_batch_size_order_and_jit_change_nothing(config):
    leaves = two_leaves()
    together = np.asarray(jitted(config)(leaves))
    tolerance = 1e-6 * np.linalg.norm(together, axis=1).max()
    one_by_one = [jitted(config)({p: x[i : i + 1] for p, x in leaves.items()})[0] for i in range(6)]
    np.testing.assert_allclose(one_by_one, together, rtol=0, atol=tolerance)
    backwards = {path: x[::-1] for path, x in leaves.items()}
    np.testing.assert_allclose(jitted(config)(backwards)[::-1], together, rtol=0, atol=tolerance)
    assert together.dtype == np.float32


@BOTH
def test_sums_over_leaves(config):
    leaves = two_leaves()
    parts = [np.asarray(project(config, SEED, {path: x})) for path, x in leaves.items()]
    np.testing.assert_allclose(jitted(config)(leaves), sum(parts), rtol=0, atol=3e-5)


def signs_and_values(batch: int, values: int, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Values of many magnitudes, (batch, values), and signs (values, width), both float32."""
    rng = np.random.default_rng(batch)
    x_BS = rng.normal(size=(batch, values)) * rng.lognormal(sigma=4.0, size=(batch, 1))
    return x_BS.astype(np.float32), rng.choice([-1.0, 1.0], (values, width)).astype(np.float32)


@pytest.mark.usefixtures("optimised")
def test_two_parts_keep_sixteen_bits_of_each_value():
    x_BS, signs_SP = signs_and_values(5000, 1)
    errors = np.abs(jax.jit(in_two_parts)(x_BS, signs_SP) - np.float64(x_BS) * signs_SP)
    relative = errors / np.abs(x_BS)
    assert 2**-18 < relative.max() <= 2**-17  # one part: 2^-9


@pytest.mark.usefixtures("optimised")
def test_two_parts_of_a_row_are_within_a_hundred_thousandth():
    """In proportion to its norm, so that stores of an earlier version are the same features."""
    x_BS, signs_SP = signs_and_values(20, 4000)
    expected = np.float64(x_BS) @ signs_SP
    errors = np.linalg.norm(jax.jit(in_two_parts)(x_BS, signs_SP) - expected, axis=1)
    assert (errors / np.linalg.norm(expected, axis=1)).max() < 5e-6


@pytest.mark.parametrize("backend", ["cpu", "tpu", "cuda"])
def test_backends_without_fast_float32_multiply_in_bfloat16(backend):
    traced = jax.jit(times_signs).trace(*signs_and_values(4, 8))
    text = traced.lower(lowering_platforms=(backend,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    expected = [0] if backend == "cpu" else [2, 2]
    assert [line.count("xbf16>") for line in products] == expected
    assert ("HIGHEST" in text) == (backend == "cpu")


@pytest.mark.usefixtures("optimised")
def test_bfloat16_leaves_are_projected_in_float32():
    rounded = {path: x.astype(jnp.bfloat16) for path, x in two_leaves().items()}
    exact = {path: x.astype(jnp.float32) for path, x in rounded.items()}
    np.testing.assert_array_equal(jitted(SKETCH)(rounded), jitted(SKETCH)(exact))


# Errors over seeds: 400 pairs of Gaussian rows with cosines around 0, +0.5 and +0.9.

SEEDS, WIDTH, VALUES = 7, 120, 1000


@functools.cache
def pairs() -> np.ndarray:
    """Unit rows (800, 1000); rows i and 400 + i are a pair."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, VALUES)) * rng.lognormal(size=VALUES)
    y += np.repeat([0.0, 0.6, 2.0], [200, 100, 100])[:, None] * x
    rows = np.concatenate([x, y])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def inner(rows) -> np.ndarray:
    first, second = np.split(np.asarray(rows, np.float64), 2)
    return np.sum(first * second, axis=1)


def cosines(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return inner(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@functools.cache
def projected(kind: str, repetitions: int) -> np.ndarray:
    """The pairs under every seed: (seeds, 800, P); compiled once for all of them."""
    config, shapes = ProjectionConfig(kind, WIDTH, repetitions), {"a": (VALUES,)}

    def one(bits, x_G):
        total = empty_sum(config, shapes)
        return finished(config, add_leaf(config)(bits["a"], x_G, total))

    run = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    rows = [run(random_bits(config, seed, shapes), pairs()) for seed in range(SEEDS)]
    assert run._cache_size() == 1
    return np.stack(rows)


def rms_cosine_error(kind: str, repetitions: int) -> float:
    errors = [cosines(rows) - cosines(pairs()) for rows in projected(kind, repetitions)]
    return float(np.sqrt(np.mean(np.square(errors)[:, :200])))  # pairs at right angles


@pytest.mark.parametrize(("kind", "repetitions"), [("rademacher", 1), ("sketch", 1), ("sketch", 2)])
def test_inner_products_and_norms_are_unbiased(kind, repetitions):
    every = projected(kind, repetitions)
    for measure in (inner, lambda rows: np.sum(np.square(rows, dtype=np.float64), axis=1)):
        errors = np.array([measure(rows) - measure(pairs()) for rows in every])
        for group in np.split(errors, [200, 300], axis=1):
            means = group.mean(axis=1)  # one for each seed
            assert abs(means.mean()) < 4 * means.std(ddof=1) / SEEDS**0.5 + 1e-7


def test_cosine_error_is_that_of_a_random_projection():
    dense, sketch = rms_cosine_error("rademacher", 1), rms_cosine_error("sketch", 1)
    assert dense == pytest.approx(WIDTH**-0.5, rel=0.06)
    # Values of one block never meet, which spares the sketch P / G of the error's square.
    blocks = pairs().shape[-1] / WIDTH
    assert sketch == pytest.approx(((1 - 1 / blocks) / WIDTH) ** 0.5, rel=0.15)
    assert sketch < 1.1 * dense
    assert rms_cosine_error("sketch", 2) < 1.1 * dense


# The matrix itself: the projection of unit vectors.


@functools.cache
def matrix(config: ProjectionConfig, seed: int, path: str, values: int) -> np.ndarray:
    return np.asarray(project(config, seed, {path: jnp.eye(values)}))


@functools.cache
def sign_rows(path: str, seed: int) -> np.ndarray:
    """Signs of 1,100 values, 192 (six whole words) each."""
    config = ProjectionConfig("rademacher", 192, 1)
    return np.rint(matrix(config, seed, path, 1100) * 192**0.5)


def test_signs_are_balanced():
    signs = sign_rows(PATHS[0], 0)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / signs.size**0.5
    assert np.abs(signs.mean(axis=0)).max() < 5 / 1100**0.5
    assert np.abs(signs.mean(axis=1)).max() < 5 / 192**0.5


def test_no_rows_or_columns_of_signs_are_alike():
    signs = sign_rows(PATHS[0], 0)
    for vectors in (signs, signs.T):
        products = vectors @ vectors.T / vectors.shape[1]
        np.fill_diagonal(products, 0)
        assert np.abs(products).max() < 6 / vectors.shape[1] ** 0.5
        assert np.sqrt(np.mean(products**2)) == pytest.approx(vectors.shape[1] ** -0.5, rel=0.02)


@pytest.mark.parametrize("other", [(PATHS[1], 0), (PATHS[0], 1)], ids=["leaf", "seed"])
def test_other_leaf_or_seed_has_other_signs(other):
    products = sign_rows(PATHS[0], 0) @ sign_rows(*other).T / 192
    assert np.abs(products).max() < 6 / 192**0.5


def test_a_word_of_signs_is_never_used_again():
    bits = (sign_rows(PATHS[0], 0) < 0).reshape(1100, 32, 6)
    packed = np.packbits(bits, axis=1).transpose(0, 2, 1).reshape(-1, 4)
    assert len(np.unique(packed, axis=0)) == 1100 * 6


def test_one_block_is_only_signed_and_rotated():
    """So a leaf of at most P values loses nothing in a sketch of one repetition."""
    small = matrix(ProjectionConfig("sketch", 192, 1), 0, PATHS[0], 150)
    np.testing.assert_array_equal(small @ small.T, np.eye(150))
    places = np.abs(small).argmax(axis=1)
    np.testing.assert_array_equal(np.diff(places) % 192, 1)


def test_offsets_take_any_value():
    """Restricted to multiples of 128 the error would be 3.6 times as large."""
    width, blocks = 1024, 60
    starts = np.zeros((blocks, blocks * width), np.float32)
    starts[np.arange(blocks), np.arange(blocks) * width] = 1
    rows = project(ProjectionConfig("sketch", width, 1), 0, {"a": jnp.asarray(starts)})
    offsets = np.abs(rows).argmax(axis=1)
    assert len(np.unique(offsets % 128)) > 30  # 48 expected of 60
    assert offsets.mean() == pytest.approx(width / 2, abs=4 * width / (12 * blocks) ** 0.5)


def test_repetitions_spread_the_error_of_heavy_coordinates():
    """Pairs of single coordinates: the same mean square, a far smaller fourth power."""

    def errors(repetitions):
        rows = matrix(ProjectionConfig("sketch", 60, repetitions), 3, PATHS[0], 60 * 12)
        products = rows @ rows.T
        return products[np.triu_indices(60 * 12, 1)].astype(np.float64)

    once, often = errors(1), errors(4)
    assert set(np.unique(once)) == {-1.0, 0.0, 1.0}
    assert np.mean(often**2) < 1.1 * np.mean(once**2)
    assert np.mean(often**4) < 0.25 * np.mean(once**4)


# Folding.


def test_fold_is_unbiased_and_keeps_the_norm():
    kept = np.array([inner(fold(pairs(), seed)) for seed in range(40)])
    errors = kept - inner(pairs())
    for group in np.split(errors, [200, 300], axis=1):
        means = group.mean(axis=1)
        assert abs(means.mean()) < 4 * means.std(ddof=1) / 40**0.5
    norms = np.array([np.sum(fold(pairs(), seed) ** 2, axis=1) for seed in range(40)])
    assert norms.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", ["rademacher", "sketch"])
def test_a_folded_projection_is_a_projection_to_half_the_width(kind):
    for times in (1, 2):  # and so is the fold of a fold
        errors = []
        for seed, rows in enumerate(projected(kind, 1)):
            for _ in range(times):
                rows = fold(rows, seed)
            assert rows.shape[1] == WIDTH >> times
            errors.append(cosines(rows) - cosines(pairs()))
        rms = np.sqrt(np.mean(np.square(errors)[:, :200]))
        assert rms == pytest.approx((WIDTH >> times) ** -0.5, rel=0.08)


def test_fold_is_fixed_by_the_seed_and_linear():
    rows = pairs()[:5, :50]
    np.testing.assert_array_equal(fold(rows, 1), fold(rows, 1))
    np.testing.assert_array_equal(fold(rows, 1)[2:3], fold(rows[2:3], 1))
    assert not np.array_equal(fold(rows, 1), fold(rows, 2))
    np.testing.assert_allclose(fold(2 * rows, 1), 2 * fold(rows, 1), rtol=1e-6)


def test_odd_width_cannot_be_folded():
    with pytest.raises(InputError, match="width 7 cannot be folded"):
        fold(np.ones((2, 7), np.float32), 0)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (("dense", 8, 1), "projection.kind"),
        (("rademacher", 0, 1), "projection.width"),
        (("sketch", 8, 0), "projection.repetitions"),
    ],
)
def test_impossible_settings_are_named(settings, field):
    with pytest.raises(InputError, match=field):
        ProjectionConfig(*settings)
