"""Packs several rows into one sequence: which rows share it, and their tokens joined."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.data.chat import Encoded


def pack(rows: np.ndarray, lengths_N: np.ndarray, width_T: int) -> list[np.ndarray]:
    """Shares the rows out over sequences of at most `width_T` tokens, by first-fit decreasing.

    A row, longest first, goes to the first sequence that has room for it: at most 11/9 of the
    fewest sequences, plus one. A function of the rows' order and lengths alone.
    """
    sequences: list[list[int]] = []
    room: list[int] = []
    for row in rows[np.argsort(-lengths_N[rows], kind="stable")].tolist():
        length = int(lengths_N[row])
        place = next((i for i, left in enumerate(room) if left >= length), len(room))
        if place == len(room):
            sequences.append([])
            room.append(width_T)
        sequences[place].append(row)
        room[place] -= length
    return [np.array(sequence, np.int32) for sequence in sequences]


def joined(encoded: Sequence[Encoded], rows: np.ndarray) -> Encoded:
    """Joins rows into one sequence, in their order."""
    parts = [encoded[row] for row in rows]
    return Encoded(
        np.concatenate([part.tokens_T for part in parts]),
        np.concatenate([part.supervised_T for part in parts]),
        any(part.truncated for part in parts),
    )


def segments(encoded: Sequence[Encoded], rows: np.ndarray) -> np.ndarray:
    """Returns, for each token of the joined rows, the place of its row among them: int32 (T,)."""
    lengths = [len(encoded[row].tokens_T) for row in rows]
    return np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
