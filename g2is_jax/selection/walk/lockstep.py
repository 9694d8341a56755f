"""The walks of several components side by side: one product of the features serves a row of each.

A component's walk depends on the earlier ones only by the rows they take. So all walk as if those
rows were free until one of them matters. Components come in order; one that would choose a row of
an earlier one, or whose largest score is that of such a row, avoids this row and chooses again.
When an earlier one takes a row that mattered to a later one before, the later one is rolled back to
that place. Should the earlier one give the row back (being rolled back itself), so is the later one
to the place where it avoided it. A row that was neither chosen nor on top can be missing without
changing a choice: so what remains is the sequence of walks one after another, trace included.

Holds where a row costs the same for all and each component's budget is known beforehand: see
`walk.py`, which decides. The arrays and what is compiled are in lanes.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from g2is_jax.selection.walk.equations import ANCHOR, Choice, State, WalkPool, WalkRules
from g2is_jax.selection.walk.lanes import (
    NO_SUMS,
    Sums,
    begun,
    fetched,
    folded,
    nothing,
    stepped,
    with_sums,
    without,
)

MOST_LANES = 16
# For each row: the state of a lane, and what a step holds beside it; more for low precision, where
# a direction is several vectors.
LANE_BYTES, LOW_PRECISION_LANE_BYTES = 40, 80
LANES_SHARE = 0.08  # of the bytes of the features that lanes may take
SMALL_BYTES = 2**21  # that lanes may take of any pool
REBUILD_COLUMNS = 16  # kept rows whose cosines are computed at a time
NO_CHOICE = Choice._make([*[np.int32(-1)] * (len(Choice._fields) - 1), np.float32(np.inf)])


def lanes_that_fit(shape: tuple[int, ...], itemsize: int, components: int) -> int:
    """How many components may walk side by side in a pool of this shape."""
    rows, width = shape
    memory = max(LANES_SHARE * rows * width * itemsize, SMALL_BYTES)
    lane = rows * (LANE_BYTES if itemsize == 4 else LOW_PRECISION_LANE_BYTES)
    return max(1, min(MOST_LANES, components, int(memory / lane)))


@dataclass
class Lane:
    """A component on its way. Its walk would go on with `choice`, found where its sums are `sums`.

    avoids: (row, step): a row of an earlier component that would have decided the choice number
    `step`, the first of which it is kept from.
    """

    component: int
    place: int  # in the arrays over lanes
    budget: int
    open_N: np.ndarray  # without the rows of components that were finished when it began
    choices: list[Choice] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # chosen
    decides: dict[int, int] = field(default_factory=dict)  # row -> first choice it was decisive for
    sums: list[Sums] = field(default_factory=lambda: [NO_SUMS])  # before each, and before the next
    avoids: list[tuple[int, int]] = field(default_factory=list)
    following: Choice = NO_CHOICE  # its next choice
    stale: bool = True  # `following` and the arrays are not of this walk
    in_arrays: int = 0  # of `choices`; the others were dropped, or come with the next step

    @property
    def ended(self) -> bool:
        return not self.stale and int(self.following.row) < 0

    def take(self) -> int:
        """Makes the next choice its own."""
        choice, step = self.following, len(self.rows)
        for decisive in (choice.row, choice.top):
            self.decides.setdefault(int(decisive), step)
        self.choices.append(choice)
        self.rows.append(int(choice.row))
        return self.rows[-1]

    def drop(self, step: int) -> set[int]:
        """Goes back to before the choice number `step`; returns the rows that it had taken."""
        dropped = set(self.rows[step:])
        del self.choices[step:], self.rows[step:], self.sums[step + 1 :]
        self.decides = {row: at for row, at in self.decides.items() if at < step}
        self.avoids = [(row, at) for row, at in self.avoids if at <= step]
        self.stale = True
        return dropped


class Lockstep:
    """Walks all components; `run()` returns each one's choices, the last being how it ended.

    passes      reads of the features: of one step for all lanes, of the directions of those that
                begin together, of up to REBUILD_COLUMNS kept rows of a walk that was rolled back
    rolled_back choices that were dropped
    """

    def __init__(self, pool: WalkPool, rules: WalkRules, core_CP, budgets_C, open_N, lanes: int):
        self._pool, self._rules, self._core_CP = pool, rules, np.asarray(core_CP)
        self._open_N, self._budgets_C = open_N, budgets_C
        self._waiting = deque(np.flatnonzero(budgets_C).tolist())  # the others take no part
        self._lanes: list[Lane] = []  # in the order of their components
        lanes = max(1, min(lanes, len(self._waiting)))
        self._places = list(range(lanes))
        self._done: list[list[Choice]] = [[NO_CHOICE] for _ in budgets_C]
        self._taken: set[int] = set()  # by finished components
        self.passes = self.rolled_back = 0
        self._core_LN, self._states = nothing(pool, lanes)

    def run(self) -> list[list[Choice]]:
        """Until every component has ended."""
        while self._waiting or self._lanes:
            if self._waiting and self._places:
                self._begin(min(len(self._waiting), len(self._places)))
            for index in range(len(self._lanes)):
                self._settle(index)
            while self._lanes and self._lanes[0].ended:
                self._finish()
            if self._lanes:
                self._step()
        return self._done

    def _begin(self, count: int) -> None:
        """The next components; their cosines to the pool come from one product."""
        open_N = self._open_N.copy()
        open_N[list(self._taken)] = False
        first = len(self._lanes)
        width = 1 << (count - 1).bit_length()  # few shapes, few compilations
        places_B = np.full(width, len(self._core_LN), np.int32)  # beyond the last: dropped
        budgets_B = np.zeros(width, np.int32)
        directions_BP = np.zeros((width, self._core_CP.shape[1]), np.float32)
        for number in range(count):
            component, place = self._waiting.popleft(), self._places.pop()
            places_B[number], directions_BP[number] = place, self._core_CP[component]
            budgets_B[number] = self._budgets_C[component]
            self._lanes.append(Lane(component, place, int(budgets_B[number]), open_N))
        self._core_LN, self._states, seen = begun(
            *(self._pool, self._rules, self._core_LN, self._states),
            *(places_B, directions_BP, self._padded(~open_N), budgets_B),
        )
        self.passes += 1
        for lane, (choice, _) in zip(self._lanes[first:], fetched(seen), strict=False):
            lane.following, lane.stale = choice, False

    def _settle(self, index: int) -> None:
        """Decides a lane's next row; the lanes before it have decided theirs."""
        lane = self._lanes[index]
        if lane.stale:
            self._lay_out(lane)
        while not lane.ended:
            choice = lane.following
            lost = self._lost(index, choice)
            if lost is None:
                break
            lane.avoids.append((lost, len(lane.rows)))
            self._states, lane.following = self._look(without, lane.place, lost)
        if lane.ended:
            return
        row = lane.take()
        for later in range(index + 1, len(self._lanes)):
            step = self._lanes[later].decides.get(row)
            if step is not None:
                self._roll_back(later, step)
                self._lanes[later].avoids.append((row, step))

    def _lost(self, index: int, choice: Choice) -> int | None:
        """A decisive row of this choice that an earlier component has."""
        rows = int(choice.row), int(choice.top)
        return next((row for row in rows if self._is_foreign(index, row)), None)

    def _is_foreign(self, index: int, row: int) -> bool:
        earlier = self._lanes[:index]
        return row in self._taken or any(
            row in lane.decides and row in lane.rows for lane in earlier
        )

    def _roll_back(self, index: int, step: int) -> None:
        """Drops a lane's choices from `step` on, and those of later lanes that avoided them."""
        dropped = self._lanes[index].drop(step)
        self.rolled_back += len(dropped)
        for later in range(index + 1, len(self._lanes)):
            lane = self._lanes[later]
            steps = [
                at for row, at in lane.avoids if row in dropped and not self._is_foreign(later, row)
            ]
            if steps:
                self._roll_back(later, min(steps))
                lane.avoids = [
                    (row, at)
                    for row, at in lane.avoids
                    if row not in dropped or self._is_foreign(later, row)
                ]

    def _lay_out(self, lane: Lane) -> None:
        """Puts a shortened walk into the arrays, and looks for its next row."""
        used_N, rows = ~lane.open_N, lane.rows
        used_N[[*rows, *(row for row, _ in lane.avoids)]] = True
        if lane.in_arrays != len(rows):
            starts = [step for step, c in enumerate(lane.choices) if c.reason >= ANCHOR]
            self._fold(lane.place, rows[max(starts, default=0) :])
            lane.in_arrays = len(rows)
        last = rows[-1] if rows else 0
        counters = (lane.budget - len(rows), len(rows), last)
        lane.stale = False
        self._states, lane.following = self._look(
            with_sums, lane.place, self._padded(used_N), counters, lane.sums[-1]
        )

    def _padded(self, used_N: np.ndarray) -> np.ndarray:
        padding = self._core_LN.shape[1] - len(used_N)
        return np.pad(used_N, (0, padding), constant_values=True)

    def _fold(self, place: int, rows: Sequence[int]) -> None:
        for start in range(0, len(rows), REBUILD_COLUMNS):
            chunk = rows[start : start + REBUILD_COLUMNS]
            padded_R = np.zeros(REBUILD_COLUMNS, np.int32)
            padded_R[: len(chunk)] = chunk
            first = start == 0
            self._states = folded(self._pool, self._states, place, padded_R, len(chunk), first)
            self.passes += 1

    def _look(self, change, place: int, *arguments) -> tuple[State, Choice]:
        states, seen = change(
            self._pool, self._rules, self._core_LN, self._states, place, *arguments
        )
        return states, fetched(seen)[0][0]

    def _finish(self) -> None:
        lane = self._lanes.pop(0)
        self._done[lane.component] = [*lane.choices, lane.following]
        self._taken.update(lane.rows)
        self._places.append(lane.place)

    def _step(self) -> None:
        """Every lane that has decided takes its row, in one product, and looks for the next."""
        moving = [lane for lane in self._lanes if not lane.ended]
        rows_L = np.full(len(self._states.size), -1, np.int32)
        reasons_L = np.zeros_like(rows_L)
        cores_L = np.zeros(rows_L.shape, np.float32)
        for lane in moving:
            choice = lane.choices[-1]
            chosen = choice.row, choice.reason, choice.core
            rows_L[lane.place], reasons_L[lane.place], cores_L[lane.place] = chosen
        self._states, seen = stepped(
            self._pool, self._rules, self._core_LN, self._states, rows_L, reasons_L, cores_L
        )
        self.passes += 1
        seen_L = fetched(seen)
        for lane in moving:
            lane.following, sums = seen_L[lane.place]
            lane.sums.append(sums)
            lane.in_arrays = len(lane.choices)
