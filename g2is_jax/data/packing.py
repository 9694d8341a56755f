"""Packs several rows into one sequence: the shapes of microbatches, and which rows share them."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.data.chat import Encoded

Shape = tuple[int, int]  # sequences of a microbatch, and the tokens that each has room for

BATCH_OVERHEAD = 512  # what a batch costs besides its tokens, in tokens; only steers their number
ATTENTION = 16_384  # tokens of a sequence whose attention costs as much as all else; only steers
WORTH = 0.004  # the least share of the tokens that one more shape has to save
NEVER = 2**31  # sequences that no shape has
STEPS = 16  # widths that are tried, up to that of the longest row, and as many above


def pack(
    rows: np.ndarray, lengths_N: np.ndarray, width_T: int, most: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Shares rows out over at most `most` sequences of `width_T` tokens, by first-fit decreasing.

    A row, longest first, goes to the first sequence that has room for it: at most 11/9 of the
    fewest sequences, plus one. Returns the sequences, and the rows that found no place. A function
    of the rows' order and lengths alone.
    """
    ordered = rows[np.argsort(-lengths_N[rows], kind="stable")]
    sequences: list[list[int]] = []
    room: list[int] = []
    left = []
    for row, length in zip(ordered.tolist(), lengths_N[ordered].tolist(), strict=True):
        place = next((i for i, free in enumerate(room) if free >= length), len(room))
        if place == len(room):
            if place == most or length > width_T:
                left.append(row)
                continue
            sequences.append([])
            room.append(width_T)
        sequences[place].append(row)
        room[place] -= length
    return [np.array(sequence, np.int32) for sequence in sequences], np.array(left, np.int32)


def microbatches(
    rows: np.ndarray, lengths_N: np.ndarray, shapes: Sequence[Shape]
) -> list[tuple[Shape, list[np.ndarray]]]:
    """Shares the rows of a step out over microbatches: the shape of each, and its sequences.

    The cheapest shape that holds all rows is taken. Where none does, the fullest one for its cost
    is filled, and the rest is shared out likewise. One of the shapes must fit the longest row.
    """
    found = []
    while len(rows):
        total = lengths_N[rows].sum()
        fitting = [shape for shape in shapes if shape[1] >= lengths_N[rows].max()]
        roomy = [shape for shape in fitting if shape[0] * shape[1] >= total]
        for shape in sorted(roomy, key=cost):
            sequences, left = pack(rows, lengths_N, shape[1], shape[0])
            if not len(left):
                break
        else:
            filled = [(shape, *pack(rows, lengths_N, shape[1], shape[0])) for shape in fitting]
            shape, sequences, left = max(
                filled, key=lambda of: (total - lengths_N[of[2]].sum()) / cost(of[0])
            )
        found.append((shape, sequences))
        rows = left
    return found


def cost(shape: Shape) -> float:
    """Returns the tokens that take as long as a microbatch of this shape."""
    size, width_T = shape
    return size * width_T * (1 + width_T / ATTENTION) + BATCH_OVERHEAD


def packed_shapes(
    steps: Sequence[np.ndarray], lengths_N: np.ndarray, tokens: int, multiple: int, most: int
) -> tuple[Shape, ...]:
    """Chooses up to `most` shapes that hold the rows of such steps with little padding.

    steps: the rows of each of some steps. tokens: the most of a microbatch, unless one row for each
    device asks for more. multiple: the number of devices; every shape has a multiple of so many
    sequences. The first shape is as wide as the longest row; each of the others is the one that
    saves most beside those before, and there are no more where it would not be worth compiling.
    """
    widths = _widths(int(lengths_N.max()))
    sizes = {width: max(tokens // (width * multiple), 1) * multiple for width in widths}

    def needed(rows: np.ndarray, width: int) -> int:
        sequences, left = pack(rows, lengths_N, width, len(rows))
        return NEVER if len(left) else -(-len(sequences) // multiple) * multiple

    longest = next(width for width in widths if width >= lengths_N.max())
    first = (min(sizes[longest], max(needed(rows, longest) for rows in steps)), longest)
    # The others are chosen by the last microbatch of each step: those before it are full.
    parts = [microbatches(rows, lengths_N, [first]) for rows in steps]
    full = sum(len(part) - 1 for part in parts) * cost(first)
    last = [np.concatenate(part[-1][1]) for part in parts]
    costs = {}  # of the last microbatches, by the shape that they have
    for width in widths:
        needed_L = np.array([needed(rows, width) for rows in last])
        for size in np.unique(needed_L[needed_L <= sizes[width]]).tolist():
            costs[size, width] = np.where(needed_L <= size, cost((size, width)), np.inf)
    candidates, costs_CL = list(costs), np.stack(list(costs.values()))
    shapes, cheapest_L = [first], np.full(len(last), cost(first))
    while len(shapes) < most:
        totals_C = np.minimum(costs_CL, cheapest_L[None]).sum(axis=1)
        best = int(totals_C.argmin())
        if cheapest_L.sum() - totals_C[best] < WORTH * (full + cheapest_L.sum()):
            break
        shapes.append(candidates[best])
        cheapest_L = np.minimum(cheapest_L, costs_CL[best])
    return tuple(shapes)


def _widths(longest: int) -> list[int]:
    """The widths that are tried, multiples of 8: also above the longest row, for few sequences."""
    parts = [-(-longest * part // STEPS) for part in range(1, 2 * STEPS + 1)]
    return sorted({-(-part // 8) * 8 for part in parts})


def joined(encoded: Sequence[Encoded], rows: np.ndarray) -> Encoded:
    """Joins rows into one sequence, in their order."""
    parts = [encoded[row] for row in rows]
    return Encoded(
        np.concatenate([part.tokens_T for part in parts]),
        np.concatenate([part.supervised_T for part in parts]),
        any(part.truncated for part in parts),
    )


def segments(encoded: Sequence[Encoded], rows: np.ndarray) -> np.ndarray:
    """Returns, for each token of the joined rows, its row: int32 (T,)."""
    return np.repeat(rows.astype(np.int32), [len(encoded[row].tokens_T) for row in rows])
