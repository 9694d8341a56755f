"""A pass over many examples: batches by length, chunks that resume, batches that may shrink."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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

SAFE_SHARE = 0.9  # of the free memory that a measured microbatch may take
MOST_TOKENS = 65_536  # of a measured microbatch; more makes nothing faster
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA's message of any backend begins


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

    def run(self, plan: Plan) -> list[FeatureBatch]:
        """Returns the features of the plan's rows, in their order; padding rows are left out."""
        if plan.size_B * plan.width_T > self.tokens and plan.size_B > self.multiple:
            return self._halves(plan)
        started = time.perf_counter()
        batch = lay_out(self.encoded, plan)
        self.input_seconds += time.perf_counter() - started
        try:
            found = jax.device_get(self.compute(batch))
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            if plan.size_B <= self.multiple:
                raise InputError(
                    f"{plan.size_B} row(s) of {plan.width_T} tokens do not fit into the device's "
                    "memory; set model.remat, lower model.max_length, or use a larger device"
                ) from error
            self.tokens = plan.size_B * plan.width_T // 2
            print(f"out of memory: going on with {self.tokens:,} tokens a batch", flush=True)
            return self._halves(plan)
        real_B = batch.rows_B >= 0
        return [FeatureBatch(found[0][:, real_B], found[1][real_B], found[2][real_B])]

    def _halves(self, plan: Plan) -> list[FeatureBatch]:
        size_B = -(-plan.size_B // (2 * self.multiple)) * self.multiple
        parts = (plan.rows[:size_B], plan.rows[size_B:])
        plans = [Plan(rows, size_B, plan.width_T) for rows in parts if len(rows)]
        return [found for half in plans for found in self.run(half)]


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
    with Progress(label, total, done=kept) as progress, finishing():
        for index in mine:
            if done[index]:
                continue
            found = [part for plan in chunks[index] for part in microbatches.run(plan)]
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


def fitting_tokens(memory_of: Callable[[int, int], int], width_T: int, free_bytes: int) -> int:
    """Estimates the tokens that a device has room for at once, from one row and from two.

    memory_of: (rows, width_T) -> bytes beside the weights that such a batch takes.
    """
    of_one, of_two = memory_of(1, width_T), memory_of(2, width_T)
    rows = 1 + (SAFE_SHARE * free_bytes - of_one) / max(of_two - of_one, 1)
    return int(min(max(rows, 1) * width_T, MOST_TOKENS))
