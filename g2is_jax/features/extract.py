"""A pass over many examples: batches by length, chunks that resume, batches that may shrink."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from g2is_jax.data.batches import Batch, Plan, chunked, lay_out, length_batches, padding_share
from g2is_jax.data.chat import Encoded
from g2is_jax.data.widths import COMPILE_COST
from g2is_jax.features.gradients import FeatureBatch
from g2is_jax.features.store import StoreWriter
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import Progress
from g2is_jax.runs.stopping import Stopped, asked_to_stop, finishing

IN_FLIGHT = 2  # batches: one is computed while the next one is laid out
SAFE_SHARE = 0.9  # of the free memory that a measured microbatch may take
MOST_TOKENS = 65_536  # of a measured microbatch; more makes nothing faster
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA's message of any backend begins


class _Started(NamedTuple):
    """A batch whose features are on their way."""

    plan: Plan
    real_B: np.ndarray
    features: FeatureBatch


@dataclass
class Microbatches:
    """Runs batches, and smaller ones once the device has run out of memory.

    multiple: rows of every batch are a multiple of it (the number of devices).
    """

    compute: Callable[[Batch], FeatureBatch]
    encoded: Sequence[Encoded]
    multiple: int = 1
    tokens: int = field(default=2**62, init=False)  # that a batch may hold
    input_seconds: float = field(default=0.0, init=False)  # spent on laying batches out

    def run(self, plans: Iterable[Plan]) -> Iterator[FeatureBatch]:
        """Yields the features of the plans' rows, in their order, in one part or several a plan.

        Padding rows are left out. The next batch is dispatched before a batch is waited for. When
        the device runs out of memory, which it may say at once or where its work is waited for,
        all batches on their way are computed again.
        """
        todo: deque[Plan] = deque(plans)
        started: deque[_Started] = deque()
        while todo or started:
            while todo and self._too_large(todo[0]):
                todo.extendleft(reversed(self._halves(todo.popleft())))
            starts = bool(todo) and len(started) < IN_FLIGHT
            plan = todo[0] if starts else started[0].plan
            try:
                if starts:
                    started.append(self._started(plan))
                    todo.popleft()
                    continue
                found = jax.device_get(started[0].features)
            except jax.errors.JaxRuntimeError as error:
                self._make_smaller(plan, error)
                todo.extendleft(batch.plan for batch in reversed(started))
                started.clear()
                continue
            real_B = started.popleft().real_B
            yield FeatureBatch(found[0][:, real_B], found[1][real_B], found[2][real_B])

    def _started(self, plan: Plan) -> _Started:
        before = time.perf_counter()
        batch = lay_out(self.encoded, plan)
        self.input_seconds += time.perf_counter() - before
        return _Started(plan, batch.rows_B >= 0, self.compute(batch))

    def _make_smaller(self, plan: Plan, error: jax.errors.JaxRuntimeError) -> None:
        """Halves the tokens of a batch after the error of one; any other error passes."""
        if OUT_OF_MEMORY not in str(error):
            raise error
        if plan.size_B <= self.multiple:
            raise InputError(
                f"{plan.size_B} row(s) of {plan.width_T} tokens do not fit into the device's "
                "memory; set model.remat, lower model.max_length, or use a larger device"
            ) from error
        self.tokens = plan.size_B * plan.width_T // 2
        print(f"out of memory: going on with {self.tokens:,} tokens a batch", flush=True)

    def _too_large(self, plan: Plan) -> bool:
        return plan.size_B * plan.width_T > self.tokens and plan.size_B > self.multiple

    def _halves(self, plan: Plan) -> list[Plan]:
        size_B = -(-plan.size_B // (2 * self.multiple)) * self.multiple
        parts = (plan.rows[:size_B], plan.rows[size_B:])
        return [Plan(rows, size_B, plan.width_T) for rows in parts if len(rows)]


def extract(
    compute: Callable[[Batch], FeatureBatch],
    encoded: Sequence[Encoded],
    writers: Sequence[StoreWriter],
    batch_tokens: int,
    label: str,
    devices: int = 1,
    share: tuple[int, int] = (0, 1),
    compile_cost: int = COMPILE_COST,
) -> dict:
    """Writes one feature row for each example to each writer's store; chunks that all of them have
    are kept.

    batch_tokens: tokens, padding included, that go through one device at once. share: which
    chunks are this process's, (index, number of processes). compile_cost: of one more shape, in
    tokens. Returns counts and seconds of the work.
    """
    plans = length_batches(encoded, batch_tokens * devices, devices, compile_cost)
    chunks = chunked(plans, writers[0].chunk_rows)
    layout = [np.concatenate([plan.rows for plan in plans]) for plans in chunks]
    done = [all(marks) for marks in zip(*(w.start(layout) for w in writers), strict=True)]
    mine = [i for i in range(len(chunks)) if i % share[1] == share[0]]
    kept = sum(len(layout[i]) for i in mine if done[i])
    microbatches = Microbatches(compute, encoded, devices)
    started = time.perf_counter()
    total = sum(len(layout[i]) for i in mine)
    missing = [i for i in mine if not done[i]]
    parts = microbatches.run(plan for i in missing for plan in chunks[i])
    with Progress(label, total, done=kept) as progress, finishing():
        for index in missing:
            found = _of_rows(parts, len(layout[index]))
            for direction, writer in enumerate(writers):
                writer.write(
                    index,
                    np.concatenate([part.features_KBP[direction] for part in found]),
                    np.concatenate([part.gradient_norms_B for part in found]),
                    np.concatenate([part.tokens_B for part in found]),
                )
            progress.advance(len(layout[index]))
            if asked_to_stop():
                raise Stopped
    return {
        "seconds_of_pass": round(time.perf_counter() - started, 3),
        "rows_of_pass": total - kept,
        "seconds_of_input": round(microbatches.input_seconds, 3),
        "seconds_waiting_for_disk": round(sum(writer.waited for writer in writers), 3),
        "padding": round(padding_share(plans, encoded), 4),
        "shapes": len({(plan.size_B, plan.width_T) for plan in plans}),
    }


def _of_rows(parts: Iterator[FeatureBatch], rows: int) -> list[FeatureBatch]:
    """Draws the parts that hold the next so many rows."""
    found = []
    while rows:
        found.append(next(parts))
        rows -= len(found[-1].tokens_B)
    return found


def fitting_tokens(memory_of: Callable[[int, int], int], width_T: int, free_bytes: int) -> int:
    """Estimates the tokens that a device has room for at once, from one row and from two.

    memory_of: (rows, width_T) -> bytes beside the weights that such a batch takes.
    """
    of_one, of_two = memory_of(1, width_T), memory_of(2, width_T)
    rows = 1 + (SAFE_SHARE * free_bytes - of_one) / max(of_two - of_one, 1)
    return int(min(max(rows, 1) * width_T, MOST_TOKENS))
