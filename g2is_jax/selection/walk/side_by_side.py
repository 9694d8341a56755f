"""The walks of several components side by side: one product of the features serves a row of each.

A component's walk depends on the earlier ones only by the rows they take. So all walk as if those
rows were free until one of them matters. Components come in order; one that would choose a row of
an earlier one, or whose largest score is that of such a row, avoids this row and chooses again.
When an earlier one takes a row that mattered to a later one before, the later one is rolled back to
that place. Should the earlier one give the row back (being rolled back itself), so is the later one
to the place where it avoided it. A row that was neither chosen nor on top can be missing without
changing a choice: so what remains is the sequence of walks one after another, trace included.

Holds where a row costs the same for all and each component's budget is known beforehand: see
select.py, which decides. The arrays and the compiled steps are in slots.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from g2is_jax.selection.walk.choice import Choice
from g2is_jax.selection.walk.equations import State, Sum, WalkPool, WalkRules
from g2is_jax.selection.walk.slots import (
    NO_SUM,
    fetched,
    folded,
    nothing,
    started,
    stepped,
    with_sum,
    without,
)

MOST_SLOTS = 16
# For each row: the state of a slot, and what a step holds beside it; more for low precision, where
# a direction is several vectors.
SLOT_BYTES, LOW_PRECISION_SLOT_BYTES = 40, 80
SLOTS_SHARE = 0.08  # of the bytes of the features that slots may take
SMALL_BYTES = 2**21  # that slots may take of any pool
REBUILD_COLUMNS = 16  # kept rows whose cosines are computed at a time
NO_CHOICE = Choice._make([*[np.int32(-1)] * (len(Choice._fields) - 1), np.float32(np.inf)])


def slots_that_fit(shape: tuple[int, ...], itemsize: int, components: int) -> int:
    """The number of components that may walk side by side in a pool of this shape."""
    rows, width = shape
    memory = max(SLOTS_SHARE * rows * width * itemsize, SMALL_BYTES)
    slot = rows * (SLOT_BYTES if itemsize == 4 else LOW_PRECISION_SLOT_BYTES)
    return max(1, min(MOST_SLOTS, components, int(memory / slot)))


@dataclass
class ComponentWalk:
    """One component's unfinished walk, which would go on with `following`.

    avoids: (row, step): a row of an earlier component that would have decided the choice number
    `step`, the first of which it is kept from.
    """

    component: int
    slot: int
    budget: int
    open_N: np.ndarray  # without the rows of components that were finished when it started
    choices: list[Choice] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # chosen
    decides: dict[int, int] = field(default_factory=dict)  # row -> first choice it was decisive for
    sums: list[Sum] = field(default_factory=lambda: [NO_SUM])  # before each, and before the next
    avoids: list[tuple[int, int]] = field(default_factory=list)
    following: Choice = NO_CHOICE  # its next choice
    stale: bool = True  # `following` and the arrays are not of this walk
    in_slot: int = 0  # of `choices`; the others were dropped, or come with the next step

    @property
    def ended(self) -> bool:
        """True if no row is left to choose."""
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


class SideBySide:
    """Walks all components; `run()` returns each one's choices, the last being how it ended.

    passes      reads of the features: of one step for all slots, of the directions of those that
                start together, of up to REBUILD_COLUMNS kept rows of a walk that was rolled back
    rolled_back choices that were dropped
    """

    def __init__(self, pool: WalkPool, rules: WalkRules, core_CP, budgets_C, open_N, slots: int):
        self._pool, self._rules, self._core_CP = pool, rules, np.asarray(core_CP)
        self._open_N, self._budgets_C = open_N, budgets_C
        self._waiting = deque(np.flatnonzero(budgets_C).tolist())  # the others take no part
        self._walks: list[ComponentWalk] = []  # in the order of their components
        slots = max(1, min(slots, len(self._waiting)))
        self._free_slots = list(range(slots))
        self._done: list[list[Choice]] = [[NO_CHOICE] for _ in budgets_C]
        self._taken: set[int] = set()  # by finished components
        self.passes = self.rolled_back = 0
        self._core_LN, self._states = nothing(pool, slots)

    def run(self) -> list[list[Choice]]:
        """Walks until every component has ended."""
        while self._waiting or self._walks:
            if self._waiting and self._free_slots:
                self._start(min(len(self._waiting), len(self._free_slots)))
            for index in range(len(self._walks)):
                self._settle(index)
            while self._walks and self._walks[0].ended:
                self._finish()
            if self._walks:
                self._step()
        return self._done

    def _start(self, count: int) -> None:
        """Starts the next components; their cosines to the pool come from one product."""
        open_N = self._open_N.copy()
        open_N[list(self._taken)] = False
        first = len(self._walks)
        width = 1 << (count - 1).bit_length()  # few shapes, few compilations
        slots_B = np.full(width, len(self._core_LN), np.int32)  # beyond the last: dropped
        budgets_B = np.zeros(width, np.int32)
        directions_BP = np.zeros((width, self._core_CP.shape[1]), np.float32)
        for number in range(count):
            component, slot = self._waiting.popleft(), self._free_slots.pop()
            slots_B[number], directions_BP[number] = slot, self._core_CP[component]
            budgets_B[number] = self._budgets_C[component]
            self._walks.append(ComponentWalk(component, slot, int(budgets_B[number]), open_N))
        self._core_LN, self._states, seen = started(
            *(self._pool, self._rules, self._core_LN, self._states),
            *(slots_B, directions_BP, self._padded(~open_N), budgets_B),
        )
        self.passes += 1
        for walk, (choice, _) in zip(self._walks[first:], fetched(seen), strict=False):
            walk.following, walk.stale = choice, False

    def _settle(self, index: int) -> None:
        """Decides a walk's next row; the walks before it have decided theirs."""
        walk = self._walks[index]
        if walk.stale:
            self._lay_out(walk)
        while not walk.ended:
            choice = walk.following
            lost = self._lost(index, choice)
            if lost is None:
                break
            walk.avoids.append((lost, len(walk.rows)))
            self._states, walk.following = self._look(without, walk.slot, lost)
        if walk.ended:
            return
        row = walk.take()
        for later in range(index + 1, len(self._walks)):
            step = self._walks[later].decides.get(row)
            if step is not None:
                self._roll_back(later, step)
                self._walks[later].avoids.append((row, step))

    def _lost(self, index: int, choice: Choice) -> int | None:
        """A decisive row of this choice that an earlier component has."""
        rows = int(choice.row), int(choice.top)
        return next((row for row in rows if self._is_foreign(index, row)), None)

    def _is_foreign(self, index: int, row: int) -> bool:
        earlier = self._walks[:index]
        return row in self._taken or any(
            row in walk.decides and row in walk.rows for walk in earlier
        )

    def _roll_back(self, index: int, step: int) -> None:
        """Drops a walk's choices from `step` on, and those of later walks that avoided them."""
        dropped = self._walks[index].drop(step)
        self.rolled_back += len(dropped)
        for later in range(index + 1, len(self._walks)):
            walk = self._walks[later]
            steps = [
                at for row, at in walk.avoids if row in dropped and not self._is_foreign(later, row)
            ]
            if steps:
                self._roll_back(later, min(steps))
                walk.avoids = [
                    (row, at)
                    for row, at in walk.avoids
                    if row not in dropped or self._is_foreign(later, row)
                ]

    def _lay_out(self, walk: ComponentWalk) -> None:
        """Puts a shortened walk into its slot, and looks for its next row."""
        used_N, rows = ~walk.open_N, walk.rows
        used_N[[*rows, *(row for row, _ in walk.avoids)]] = True
        if walk.in_slot != len(rows):
            starts = [step for step, choice in enumerate(walk.choices) if choice.starts]
            self._fold(walk.slot, rows[max(starts, default=0) :])
            walk.in_slot = len(rows)
        last = rows[-1] if rows else 0
        counters = (walk.budget - len(rows), len(rows), last)
        walk.stale = False
        self._states, walk.following = self._look(
            with_sum, walk.slot, self._padded(used_N), counters, walk.sums[-1]
        )

    def _padded(self, used_N: np.ndarray) -> np.ndarray:
        padding = self._core_LN.shape[1] - len(used_N)
        return np.pad(used_N, (0, padding), constant_values=True)

    def _fold(self, slot: int, rows: Sequence[int]) -> None:
        for start in range(0, len(rows), REBUILD_COLUMNS):
            chunk = rows[start : start + REBUILD_COLUMNS]
            padded_R = np.zeros(REBUILD_COLUMNS, np.int32)
            padded_R[: len(chunk)] = chunk
            first = start == 0
            self._states = folded(self._pool, self._states, slot, padded_R, len(chunk), first)
            self.passes += 1

    def _look(self, change, slot: int, *arguments) -> tuple[State, Choice]:
        states, seen = change(
            self._pool, self._rules, self._core_LN, self._states, slot, *arguments
        )
        return states, fetched(seen)[0][0]

    def _finish(self) -> None:
        walk = self._walks.pop(0)
        self._done[walk.component] = [*walk.choices, walk.following]
        self._taken.update(walk.rows)
        self._free_slots.append(walk.slot)

    def _step(self) -> None:
        """Enters the rows of all walks that have decided, in one product; looks for the next."""
        moving = [walk for walk in self._walks if not walk.ended]
        rows_L = np.full(len(self._core_LN), -1, np.int32)
        starts_L = np.zeros(rows_L.shape, bool)
        cores_L = np.zeros(rows_L.shape, np.float32)
        for walk in moving:
            choice = walk.choices[-1]
            chosen = choice.row, choice.starts, choice.core
            rows_L[walk.slot], starts_L[walk.slot], cores_L[walk.slot] = chosen
        self._states, seen = stepped(
            self._pool, self._rules, self._core_LN, self._states, rows_L, starts_L, cores_L
        )
        self.passes += 1
        seen_L = fetched(seen)
        for walk in moving:
            walk.following, total = seen_L[walk.slot]
            walk.sums.append(total)
            walk.in_slot = len(walk.choices)
