"""The kernels of attention against each other; `splash` is interpreted here, as no TPU is there."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.model import attention_blocks
from g2is_jax.model.backends import kernel_for
from g2is_jax.model.build import build_model
from g2is_jax.model.kernels import KERNELS, attend
from g2is_jax.runs.errors import InputError
from g2is_jax.training.loss import example_loss
from tests.support.tiny_models import (
    BFLOAT16,
    FLOAT32,
    config_of,
    lora_config,
    ours,
    random_leaves,
    random_tokens,
)

ROWS = 2


class Case(NamedTuple):
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    segments: tuple[int, ...]  # their lengths; empty: none
    softcap: float | None


CASES = {
    "causal, one kv head": Case(70, 3, 1, 10, None, (), None),
    "as many kv heads": Case(9, 3, 3, 64, None, (), None),
    "a tile exactly": Case(128, 4, 2, 128, None, (), None),
    "cap": Case(70, 4, 2, 16, None, (), 1.5),
    "window": Case(200, 6, 2, 10, 37, (), None),
    "window longer than the row": Case(50, 2, 1, 10, 80, (), None),
    "window of two": Case(50, 2, 1, 10, 2, (), None),
    "segments": Case(200, 4, 2, 64, None, (1, 90, 60, 49), None),
    "window, segments": Case(200, 4, 2, 10, 37, (50, 90, 60), None),
    "window, segments, cap, blocks": Case(600, 2, 1, 16, 300, (500, 40, 60), 1.5),
}


def values_of(case: Case, dtype) -> tuple[jax.Array, ...]:
    """Queries, keys, values and a cotangent of ROWS rows."""
    rng = np.random.default_rng(0)
    heads = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    return tuple(
        jnp.asarray(rng.normal(size=(ROWS, case.tokens, n, case.head_dim)), dtype) for n in heads
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def outputs_and_gradients(kernel: str, case: Case, values):
    """Outputs of all rows, and the gradients of queries, keys and values."""
    *row, cotangent = values
    segments_T = None
    if case.segments:
        segments_T = jnp.asarray(np.repeat(np.arange(len(case.segments)), case.segments))

    def of_rows(*row):
        def of_row(q_THD, k_TKD, v_TKD):
            masks = segments_T, case.window
            return attend(kernel, q_THD, k_TKD, v_TKD, *masks, 0.3, case.softcap)

        return jax.vmap(of_row)(*row)

    y_BTHD, backward = jax.vjp(of_rows, *row)
    return y_BTHD, *backward(cotangent)


def assert_close(found, expected, tolerance: float) -> None:
    """Within so much of the largest value, each array by itself."""
    for ours_, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        ours_, theirs = np.asarray(ours_, np.float32), np.asarray(theirs, np.float32)
        np.testing.assert_allclose(ours_, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_splash(case):
    values = values_of(case, jnp.float32)
    found = outputs_and_gradients("splash", case, values)
    assert_close(found, outputs_and_gradients("blocks", case, values), 4e-6)


@pytest.mark.parametrize("kernel", ["splash", "blocks"])
def test_bfloat16(kernel):
    """Outputs and gradients are rounded, and so are weights and queries within: 2^-8 each."""
    case = CASES["window, segments"]
    values = values_of(case, jnp.bfloat16)
    found = outputs_and_gradients(kernel, case, values)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in found)
    exact = outputs_and_gradients("blocks", case, [x.astype(jnp.float32) for x in values])
    assert_close(found, exact, 0.01)


@pytest.mark.usefixtures("optimised")
def test_blocks_hold_the_weights_of_one_row_at_a_time():
    """Eight rows need no more memory than one, but for what they take and give."""
    case = Case(512, 8, 2, 8, None, (), None)

    def temporaries(rows: int) -> int:
        values = [jnp.concatenate([x] * (rows // ROWS)) for x in values_of(case, jnp.float32)]
        program = outputs_and_gradients.lower("blocks", case, values).compile()
        return program.memory_analysis().temp_size_in_bytes

    each = 4 * case.tokens * case.head_dim * (case.heads + case.kv_heads)  # queries, keys: bytes
    weights = 4 * case.heads * 128 * case.tokens  # of one block of a row
    assert temporaries(16) - temporaries(2) < 14 * 8 * each < 14 * weights


def test_rows_in_groups(monkeypatch):
    """Seven rows by three, of which one is left, are as each by itself; all have segments."""
    case = CASES["causal, one kv head"]
    monkeypatch.setattr(attention_blocks, "CACHE", 3 * 4 * case.heads * case.tokens**2)
    rows = [jnp.concatenate([x, x[:1] + 1, -x, 2 * x]) for x in values_of(case, jnp.float32)]
    segments_BT = jnp.asarray(np.arange(case.tokens) > 10 * np.arange(7)[:, None], int)

    def of_row(kernel, q_THD, k_TKD, v_TKD, dy_THD, segments_T):
        def outputs(*row):
            return attend(kernel, *row, segments_T, None, 0.3, None)

        y_THD, backward = jax.vjp(outputs, q_THD, k_TKD, v_TKD)
        return y_THD, *backward(dy_THD)

    grouped, alone = (
        jax.jit(jax.vmap(functools.partial(of_row, kernel)))
        for kernel in ("grouped_blocks", "blocks")
    )
    assert_close(grouped(*rows, segments_BT), alone(*rows, segments_BT), 1e-6)
    loops = [
        str(jax.make_jaxpr(run)(*rows, segments_BT)).count("length=7") for run in (grouped, alone)
    ]
    assert loops[0] == 0 < loops[1]


def test_splash_within_a_scan_on_a_mesh():
    """Layers are scanned and computed again in the backward pass, on each device's own rows."""
    case = Case(70, 4, 2, 10, 37, (), None)
    *row, _ = values_of(case, jnp.float32)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradients(kernel):
        @jax.checkpoint
        def layer(row, gain):
            q_THD, k_TKD, v_TKD = row
            y_THD = attend(kernel, gain * q_THD, k_TKD, v_TKD, None, case.window, 0.3, None)
            return (y_THD, k_TKD, v_TKD), None

        def loss(*row):
            (y_THD, *_), _ = jax.lax.scan(layer, row, jnp.array([1.0, 3.0]))
            return jnp.sum(jnp.sin(y_THD))

        of_rows = jax.vmap(jax.grad(loss, argnums=(0, 1, 2)))
        spec = jax.P("data")
        return jax.jit(
            jax.shard_map(of_rows, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )(*row)

    assert_close(gradients("splash"), gradients("blocks"), 1e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["one segment", "packed"])
def test_decoder_with_splash(packed):
    """Gemma 2: a window in one layer, caps and a scale of its own."""
    tokens_T = random_tokens(70)
    segments_T = jnp.repeat(jnp.arange(2), jnp.array([30, 40])) if packed else None
    found = []
    for kernel in ("splash", "blocks"):
        settings = dataclasses.replace(FLOAT32, attention=kernel)
        model, adapter, base = ours("gemma2", lora_config(), settings)

        def loss(adapter, model=model, base=base):
            logits_TV = model.logits(adapter, base, tokens_T, segments_T=segments_T)
            return jnp.sum(jnp.sin(logits_TV)), logits_TV

        found.append(jax.jit(jax.grad(loss, has_aux=True))(adapter))
    assert_close(*found, 2e-4)


def test_cudnn_is_told_the_mask(monkeypatch):
    """The kernel gets the causal flag and the window; it would take no mask."""
    asked = []

    def fused(q_THD, *_, **settings):
        asked.append(settings)
        return q_THD

    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)

    def run(head_dim=16, segments_T=None, softcap=None):
        row = [jnp.ones((50, heads, head_dim), jnp.bfloat16) for heads in (4, 2, 2)]
        jax.eval_shape(lambda: attend("cudnn", *row, segments_T, 37, 0.3, softcap))

    run()
    expected = {"scale": 0.3, "is_causal": True, "local_window_size": (36, 0)}
    assert asked == [{**expected, "implementation": "cudnn"}]
    # What it does not know goes to `blocks`.
    run(segments_T=jnp.zeros(50, int))
    run(softcap=2.0)
    run(head_dim=10)
    run(head_dim=256)
    assert len(asked) == 1


@pytest.mark.usefixtures("optimised")
@pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs an NVIDIA GPU, and JAX_PLATFORMS=cuda"
)
def test_gradients_on_a_gpu():
    """With `cudnn` a row's gradient depends little on the batch, and agrees with `blocks`.

    Fused kernels add up in another order from shape to shape: 1 % of a gradient's length is allowed
    between batches, 3 % between kernels, in bfloat16.
    """
    tokens_BT = jnp.stack([random_tokens(96, seed) for seed in range(6)])
    supervised_T = jnp.arange(96) > 20
    raw = {"head_dim": 16, "hidden_size": 48}

    def gradients(kernel, tokens_BT):
        settings = dataclasses.replace(BFLOAT16, attention=kernel)
        model = build_model(config_of("mistral", **raw), lora_config(), settings)
        base = random_leaves(model.base_shapes)
        base = {path: leaf.astype(model.dtype) for path, leaf in base.items()}

        def loss(adapter, tokens_T):
            return example_loss(model, adapter, base, tokens_T, supervised_T)[0]

        by_row = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
        found = by_row(random_leaves(model.adapter_shapes, seed=1), tokens_BT)
        leaves = [leaf.reshape(len(tokens_BT), -1) for leaf in found.values()]
        return np.concatenate(leaves, axis=1)

    def distance(found, expected):
        lengths = np.linalg.norm(expected, axis=1)
        return (np.linalg.norm(found - expected, axis=1) / lengths).max()

    together = gradients("cudnn", tokens_BT)
    order = [3, 0, 5, 1, 4, 2]
    assert distance(gradients("cudnn", tokens_BT[jnp.array(order)]), together[order]) < 0.01
    alone = np.concatenate([gradients("cudnn", tokens_BT[i : i + 1]) for i in range(6)])
    assert distance(alone, together) < 0.01
    assert distance(together, gradients("blocks", tokens_BT)) < 0.03


@pytest.mark.parametrize(
    ("backend", "activations", "kernel"),
    [
        ("tpu", "bfloat16", "splash"),
        ("tpu", "float32", "splash"),
        ("gpu", "bfloat16", "cudnn"),
        ("gpu", "float32", "blocks"),
        ("cpu", "bfloat16", "blocks"),
    ],
)
def test_auto(backend, activations, kernel):
    assert kernel_for("auto", backend, activations) == kernel


def test_a_kernel_by_name():
    for name in KERNELS:
        assert kernel_for(name, "tpu", "bfloat16") == name
    with pytest.raises(
        InputError, match=r"'flash' is unknown; choose one of auto, blocks, grouped"
    ):
        kernel_for("flash", "cpu", "float32")
    with pytest.raises(InputError, match=r"'cudnn' computes in bfloat16, .* is 'float32'"):
        kernel_for("cudnn", "gpu", "float32")
