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
from g2is_jax.data.packing import joined, microbatches, pack, segments
from tests.support.rows_of_lengths import examples, less_like_lengths

BATCH = 16
SHAPES = TrainingShapes(((4, 512), (2, 1400), (3, 2048)), packed=True)


def test_first_fit_by_hand():
    lengths = np.array([3, 7, 5, 5, 2, 9])
    sequences, left = pack(np.array([4, 3, 2, 0, 1]), lengths, 10, most=3)
    assert [rows.tolist() for rows in sequences] == [[1, 0], [3, 2], [4]]
    assert left.tolist() == []


def test_what_finds_no_place_is_left():
    """A row that is too long, and one for which there is no room; a shorter one finds some."""
    lengths = np.array([3, 7, 5, 5, 2, 11])
    sequences, left = pack(np.arange(6), lengths, 10, most=2)
    assert [rows.tolist() for rows in sequences] == [[1, 0], [2, 3]]
    assert left.tolist() == [5, 4]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_once_and_no_sequence_opened_without_need(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(8, 60))
    lengths = rng.integers(1, width + 1, size=40)
    rows = rng.permutation(40)[:30]
    sequences, left = pack(rows, lengths, width, most=30)
    assert not len(left)
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
    assert segments(encoded, rows).tolist() == [1, 1, 1, 2, 0, 0]


def rows_in(batch, encoded) -> list[int]:
    """The rows of a packed batch, each checked to be there whole, padding to be padding."""
    found = []
    for place, rows_T in enumerate(batch.segments_BT):
        _, firsts = np.unique(rows_T, return_index=True)
        borders = [*sorted(firsts), len(rows_T)]
        for first, end in itertools.pairwise(borders):
            row, here = int(rows_T[first]), slice(first, end)
            if row < 0:
                assert end == len(rows_T)  # padding comes last
                assert not batch.supervised_BT[place, here].any()
                continue
            assert (rows_T[here] == row).all()
            assert np.array_equal(batch.tokens_BT[place, here], encoded[row].tokens_T)
            assert np.array_equal(batch.supervised_BT[place, here], encoded[row].supervised_T)
            found.append(row)
        assert batch.rows_B[place] == rows_T[0]
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


def test_the_cheapest_shape_that_holds_all_rows_is_taken():
    """Two sequences of 100 are as many tokens as one of 200, whose attention costs more."""
    lengths = np.array([90, 60, 30, 10])
    for shapes, expected in (
        (((4, 100), (1, 200), (2, 100)), ((2, 100), [[0, 3], [1, 2]])),
        (((4, 100), (1, 200)), ((1, 200), [[0, 1, 2, 3]])),
        (((4, 80), (4, 100), (1, 150)), ((4, 100), [[0, 3], [1, 2]])),
    ):
        ((shape, sequences),) = microbatches(np.arange(4), lengths, shapes)
        assert (shape, [rows.tolist() for rows in sequences]) == expected


def test_rows_that_no_shape_holds_are_shared_out():
    """The fullest microbatches first; the rest in what is cheapest for it."""
    lengths = np.array([100] * 7 + [40])
    found = microbatches(np.arange(8), lengths, ((3, 104), (3, 150), (1, 144)))
    assert [(shape, len(sequences)) for shape, sequences in found] == [
        ((3, 104), 3),
        ((3, 104), 3),
        ((1, 144), 1),
    ]
    rows = np.concatenate([part for _, sequences in found for part in sequences])
    assert sorted(rows) == list(range(8))


@pytest.mark.parametrize("seed", range(10))
def test_every_row_once_in_sequences_that_have_room(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 200, size=60)
    rows = rng.permutation(60)[:40]
    shapes = tuple((int(n), int(w)) for n, w in rng.integers((1, 60), (6, 199), size=(4, 2)))
    found = microbatches(rows, lengths, (*shapes, (2, 200)))
    held = [part for _, sequences in found for part in sequences]
    assert sorted(np.concatenate(held)) == sorted(rows)
    for (size, width), sequences in found:
        assert 0 < len(sequences) <= size
        assert max(lengths[part].sum() for part in sequences) <= width


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("budget", [4096, 16_384])
def test_few_shapes_and_little_padding(budget, devices):
    """Also for a part of the pool, and for its longest rows; the share is of what is laid out."""
    lengths = less_like_lengths(2_000)
    padded, packed = (
        training_shapes(lengths, 128, budget * devices, multiple=devices, packed=packed)
        for packed in (False, True)
    )
    assert packed == training_shapes(lengths, 128, budget * devices, 4, devices, packed=True)
    assert min(padded.longest, packed.longest) >= lengths.max()
    assert len(set(packed.shapes)) == len(packed.shapes) <= 12
    assert all(size % devices == 0 for size, _ in packed.shapes)
    assert max(size * width for size, width in packed.shapes) <= max(budget, 2048) * devices
    for part in (lengths[::3], np.sort(lengths)[-300:]):
        batches = [
            batch
            for _, microbatches in training_batches(examples(part), 128, 1, 2, 0, packed)
            for batch in microbatches
        ]
        assert {batch.tokens_BT.shape for batch in batches} <= set(packed.shapes)
        cells = sum(batch.tokens_BT.size for batch in batches)
        share = training_padding(part, 128, 1, 2, packed)
        assert share == pytest.approx(1 - 2 * part.sum() / cells)
    assert training_padding(lengths[::3], 128, 1, 2, packed) < (0.1 if devices == 1 else 0.2)
    assert training_padding(lengths, 128, 1, 2, padded) > 0.25


@pytest.mark.parametrize("batch", [8, 32, 128])
def test_padding_of_small_and_large_steps(batch):
    """At most a tenth of the tokens, in orders of rows that the shapes were not chosen by."""
    lengths = less_like_lengths(3_000)
    packed = training_shapes(lengths, batch, 16_384, packed=True)
    assert len(packed.shapes) <= 12
    assert training_padding(lengths, batch, 7, 1, packed) < 0.1
    assert training_padding(lengths, batch, 7, 1, training_shapes(lengths, batch, 16_384)) > 0.25


def test_a_shape_that_saves_little_is_not_compiled():
    """Steps that are all alike need two: two rows to a sequence leave no padding."""
    packed = training_shapes([100] * 320, 64, 16_384, packed=True)  # none ends an epoch
    assert packed.shapes == ((64, 104), (32, 200))
    assert training_padding([100] * 320, 64, 0, 1, packed) == 0
