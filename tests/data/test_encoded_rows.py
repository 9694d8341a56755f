"""Examples in one flat array are the examples that were put there."""

import numpy as np

from g2is_jax.data.batches import row_lengths
from g2is_jax.data.chat import Encoded
from g2is_jax.data.encoded_rows import Encoder


def examples(count: int) -> list[Encoded]:
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 9, count)
    return [
        Encoded(
            draw.integers(0, 200_000, length).astype(np.int32),
            draw.random(length) < 0.5,
            bool(draw.random() < 0.5),
        )
        for length in lengths
    ]


def same(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.tokens_T, other.tokens_T, strict=True)
        np.testing.assert_array_equal(one.supervised_T, other.supervised_T, strict=True)
        assert one.truncated is other.truncated


def test_rows_by_place_and_by_choice():
    expected = examples(40)
    encoder = Encoder()
    encoder.add(expected[:7])
    encoder.add(expected[7:])
    rows = encoder.rows()
    same(rows, expected)
    same(rows[3:30:2], expected[3:30:2])
    chosen = [5, 39, 0, 5]
    same(rows.take(chosen), [expected[row] for row in chosen])
    same(rows.take(chosen).take([1, 1]), [expected[39]] * 2)


def test_columns():
    expected = examples(40)
    encoder = Encoder()
    encoder.add(expected)
    rows = encoder.rows().take([4, 2])
    assert row_lengths(rows).tolist() == [len(expected[row].tokens_T) for row in (4, 2)]
    assert rows.supervised_N.tolist() == [expected[row].supervised_T.sum() for row in (4, 2)]
    assert rows.truncated_N.tolist() == [expected[row].truncated for row in (4, 2)]
    assert encoder.rows().largest_token == max(e.tokens_T.max(initial=0) for e in expected)


def by_marks(example: Encoded) -> int:
    """The tokens before the last run of supervised ones, counted from the end."""
    place = len(example.supervised_T)
    while place and not example.supervised_T[place - 1]:
        place -= 1
    while place and example.supervised_T[place - 1]:
        place -= 1
    return place


def test_prompts_end_before_the_last_run_of_supervised_tokens():
    expected = examples(60)
    encoder = Encoder()
    encoder.add(expected)
    rows = encoder.rows().take(range(3, 60))
    ends = [by_marks(example) for example in expected[3:]]
    assert len(set(ends)) > 5
    prompts = rows.prompts()
    same(
        prompts,
        [
            Encoded(e.tokens_T[:end], e.supervised_T[:end], e.truncated)
            for e, end in zip(expected[3:], ends, strict=True)
        ],
    )
    assert row_lengths(prompts).tolist() == ends
    assert prompts.supervised_N.tolist() == [p.supervised_T.sum() for p in prompts]
    same(rows, expected[3:])  # which stay as they were
