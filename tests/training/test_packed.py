"""Packed training is training: the same loss and gradient, and no label across a border."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from g2is_jax.data.batches import TrainingShapes, training_batches
from g2is_jax.training.steps import accumulate
from tests.support.tiny_models import random_leaves
from tests.support.tiny_training import random_rows, tiny_model

LENGTHS = (13, 6, 16, 9, 2, 14, 8, 11, 16, 1)
PADDED, PACKED = TrainingShapes(((4, 16),)), TrainingShapes(((2, 32),), packed=True)


@pytest.fixture(scope="module")
def world():
    """Return rows all of whose tokens are labels, also the first ones, which nothing predicts."""
    model = tiny_model()
    rows = [
        replace(row, supervised_T=np.ones(len(row.tokens_T), bool)) for row in random_rows(LENGTHS)
    ]
    leaves = random_leaves(model.adapter_shapes, 3), random_leaves(model.base_shapes)
    return model, rows, *leaves


def one_step(rows, shapes):
    ((_, microbatches),) = training_batches(rows, len(rows), 0, 1, 0, shapes)
    return microbatches


def test_loss_and_gradient_are_those_of_padded_rows(world):
    model, rows, adapter, base = world
    padded, packed = (
        accumulate(model, adapter, base, one_step(rows, shapes), jax.random.key(0))
        for shapes in (PADDED, PACKED)
    )
    assert int(packed[2]) == int(padded[2]) == sum(LENGTHS) - len(LENGTHS)
    assert float(packed[1]) == pytest.approx(float(padded[1]), rel=1e-5)
    for path, leaf in padded[0].items():
        error = np.linalg.norm(packed[0][path] - leaf) / np.linalg.norm(leaf)
        assert error < 1e-5, path


def test_packing_is_at_work(world):
    """Sequences hold several rows, and there are fewer tokens in all."""
    rows = world[1]
    padded, packed = one_step(rows, PADDED), one_step(rows, PACKED)
    assert max(len(np.unique(row_T)) for batch in packed for row_T in batch.segments_BT) > 2
    assert all(batch.segments_BT is None for batch in padded)
    cells = [sum(batch.tokens_BT.size for batch in batches) for batches in (padded, packed)]
    assert cells[1] < cells[0]


def test_dropout_depends_on_step_row_and_place_alone(world):
    """Rows that share a sequence, and sequences that share a microbatch, do not matter."""
    _, rows, adapter, base = world
    model = tiny_model(dropout=0.3)

    def loss(shapes, seed=0):
        batches = one_step(rows, shapes)
        return float(accumulate(model, adapter, base, batches, jax.random.key(seed))[1])

    packed = loss(PACKED)
    for others in (PADDED, replace(PACKED, shapes=((1, 32),)), replace(PACKED, shapes=((3, 48),))):
        assert loss(others) == pytest.approx(packed, rel=1e-6)
    assert abs(loss(PACKED, seed=1) - packed) > 1e-3


def test_tokens_of_a_row_lose_different_values(world):
    """A row of one token throughout has the same loss at each place, but for dropout."""
    _, _, adapter, base = world
    model = tiny_model(dropout=0.3)
    (row,) = random_rows([9])
    row = replace(row, tokens_T=np.full(9, 5, np.int32), supervised_T=np.ones(9, bool))
    key = jax.random.key(0)
    losses = [
        accumulate(model, adapter, base, one_step([one], TrainingShapes(((1, 16),))), key)[1]
        for one in (row, replace(row, supervised_T=np.arange(9) == 1))
    ]
    assert float(losses[0]) != pytest.approx(8 * float(losses[1]), rel=1e-3)
