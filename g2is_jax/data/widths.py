"""Chooses the widths that batches are padded to, and the rows that a batch of each holds."""

from collections.abc import Sequence

import numpy as np

COMPILE_COST = 16_384  # what one more compiled shape costs, in tokens, unless more is known
CPU_COMPILE = 1.35e11  # the same on a CPU, in tokens times the model's parameters: seconds of work


def widths_grid(
    lengths: Sequence[int] | np.ndarray, most: int = 12, compile_cost: int = 0
) -> tuple[int, ...]:
    """Returns up to `most` widths, multiples of 8, that pad the lengths with the fewest tokens.

    compile_cost: what one more width costs, in tokens; it keeps the grid of a small set short.
    Exact, by dynamic programming: cheapest[w] = the fewest tokens for all rows that fit width w,
    with w the last of k widths. The last width covers the longest row.
    """
    lengths_N = np.asarray(lengths)
    step = 8
    while lengths_N.max() > 512 * step:  # at most 512 candidate widths
        step *= 2
    cells_N = np.maximum(-(-lengths_N // step), 1)
    widths_W = step * np.arange(1, cells_N.max() + 1)
    fitting_W = np.bincount(cells_N).cumsum()[1:]  # rows that fit each width
    # tokens_WW[v, w]: rows longer than width v, up to width w, padded to w.
    tokens_WW = np.where(
        widths_W[:, None] < widths_W[None, :],
        (fitting_W[None, :] - fitting_W[:, None]) * widths_W[None, :],
        np.inf,
    )
    cheapest_W = fitting_W * widths_W
    last, history = len(widths_W) - 1, []
    costs = [cheapest_W[last]]
    for _ in range(most - 1):
        totals_WW = cheapest_W[:, None] + tokens_WW
        history.append(totals_WW.argmin(axis=0))
        cheapest_W = totals_WW.min(axis=0)
        costs.append(cheapest_W[last])
    place, grid = last, []
    totals = np.array(costs) + compile_cost * np.arange(len(costs))
    for back in reversed(history[: int(np.argmin(totals))]):
        grid.append(int(widths_W[place]))
        place = int(back[place])
    return tuple(sorted([*grid, int(widths_W[place])]))


def compile_cost(parameters: int, backend: str) -> int:
    """Returns what one more compiled shape costs, in tokens that pass through the model meanwhile.

    On a CPU a compilation takes the same few seconds for a model of any depth: the larger the
    model, the fewer tokens they are. Elsewhere it takes a minute or two of a much faster device.
    """
    return min(COMPILE_COST, int(CPU_COMPILE / parameters)) if backend == "cpu" else COMPILE_COST


def rows_at(width_T: int, token_budget: int, multiple: int = 1) -> int:
    """Returns the rows of a batch of this width: as the budget holds, in 8s or a power of two.

    Always a multiple of `multiple` (the number of devices), and at least that.
    """
    rows = max(token_budget // (width_T * multiple), 1)
    rows = rows // 8 * 8 if rows >= 8 else 1 << (rows.bit_length() - 1)
    return rows * multiple
