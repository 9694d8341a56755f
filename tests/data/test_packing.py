"""Packed rows: every row once and whole, in few and full sequences, whatever is resumed."""

import itertools

import numpy as np
import pytest

from g2is_jax.data.batches import (
    TrainingShapes,
    epoch_order,
    rows_of_step,
    training_batches,
    training_padding,
    training_shapes,
)
from g2is_jax.data.packing import joined, pack, segments
from tests.support.rows_of_lengths import examples, less_like_lengths

BATCH = 16
SHAPES = TrainingShapes((512, 2048), 8192, packed=True)


def test_first_fit_by_hand():
    lengths = np.array([3, 7, 5, 5, 2, 9])
    sequences = pack(np.array([4, 3, 2, 0, 1]), lengths, 10)
    assert [rows.tolist() for rows in sequences] == [[1, 0], [3, 2], [4]]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_once_and_no_sequence_opened_without_need(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(8, 60))
    lengths = rng.integers(1, width + 1, size=40)
    rows = rng.permutation(40)[:30]
    sequences = pack(rows, lengths, width)
    assert sorted(np.concatenate(sequences)) == sorted(rows)
    totals = [lengths[rows].sum() for rows in sequences]
    assert max(totals) <= width
    for before, after in itertools.combinations(range(len(sequences)), 2):
        assert totals[before] + lengths[sequences[after][0]] > width
    longest = [lengths[rows[0]] for rows in sequences]
    assert longest == sorted(longest, reverse=True)


def test_joined_rows():
    encoded = examples([2, 3, 1])
    rows = np.array([1, 2, 0])
    sequence = joined(encoded, rows)
    assert sequence.tokens_T.tolist() == [2, 2, 2, 3, 1, 1]
    assert sequence.supervised_T.tolist() == [False, True, True, True, False, True]
    assert segments(encoded, rows).tolist() == [0, 0, 0, 1, 2, 2]


def rows_in(batch, encoded) -> list[int]:
    """The rows of a packed batch, each checked to be there whole, padding to be padding."""
    found = []
    for place, numbers_T in enumerate(batch.segments_BT):
        for number in range(numbers_T.max() + 1):
            (tokens,) = np.flatnonzero(numbers_T == number)[[0, -1]][None]
            row = int(batch.tokens_BT[place, tokens[0]]) - 1
            here = slice(tokens[0], tokens[1] + 1)
            assert np.array_equal(batch.tokens_BT[place, here], encoded[row].tokens_T)
            assert np.array_equal(batch.supervised_BT[place, here], encoded[row].supervised_T)
            found.append(row)
            if number == 0:
                assert batch.rows_B[place] == row
        padding_T = numbers_T == -1
        assert not padding_T[:-1][numbers_T[1:] >= 0].any()  # it comes last
        assert not batch.supervised_BT[place, padding_T].any()
        assert batch.rows_B[place] >= 0 or padding_T.all()
    return found


def test_a_step_has_the_rows_that_it_has_unpacked():
    encoded = examples(less_like_lengths(50))
    for step, batches in training_batches(encoded, BATCH, 3, 2, 0, SHAPES):
        rows = [row for batch in batches for row in rows_in(batch, encoded)]
        epoch, place = divmod(step, 4)
        expected = epoch_order(50, 3, epoch)[BATCH * place : BATCH * (place + 1)]
        assert sorted(rows) == sorted(expected)
        assert rows_of_step(50, BATCH, 3, step).tolist() == expected.tolist()
    assert step == 7


@pytest.mark.parametrize("start", [1, 4, 6])
def test_resumed_packing_continues_identically(start):
    encoded = examples(less_like_lengths(50))
    whole = list(training_batches(encoded, BATCH, 5, 2, 0, SHAPES))[start:]
    resumed = list(training_batches(encoded, BATCH, 5, 2, start, SHAPES))
    for (step, before), (same, after) in zip(whole, resumed, strict=True):
        assert step == same
        for a, b in zip(before, after, strict=True):
            assert all(np.array_equal(vars(a)[name], vars(b)[name]) for name in vars(a))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("budget", [4096, 16_384])
def test_few_shapes_and_little_padding(budget, devices):
    """Also for a part of the pool, whose sequences may be fuller; the share is of what is laid
    out."""
    lengths = less_like_lengths(2_000)
    padded, packed = (
        training_shapes(lengths, 128, budget * devices, multiple=devices, packed=packed)
        for packed in (False, True)
    )
    assert padded.widths[-1] == packed.widths[-1] >= lengths.max()
    part = lengths[::3]
    batches = [
        batch
        for _, microbatches in training_batches(examples(part), 128, 1, 2, 0, packed, devices)
        for batch in microbatches
    ]
    shapes = {batch.tokens_BT.shape for batch in batches}
    assert len(shapes) <= 4
    assert all(size % devices == 0 for size, _ in shapes)
    assert max(np.prod(shape) for shape in shapes) <= budget * devices
    cells = sum(batch.tokens_BT.size for batch in batches)
    share = training_padding(part, 128, 1, 2, packed, devices)
    assert share == pytest.approx(1 - 2 * part.sum() / cells)
    assert share < 0.6 * training_padding(part, 128, 1, 2, padded, devices)
