"""Padding of training and of passes over rows, and the shapes that they compile.

    python -m experiments.bench.padding --pool=pool.jsonl.gz --tokenizer=FOLDER --output=bench.json

Nothing is computed but the plans. Of training: rows that share sequences (the default) against a
sequence for each row, over the first epoch of all rows. Of passes: the grid of the settings against
one of at most 12 widths that thinks every shape worth 16,384 tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from experiments.bench.models import lognormal_lengths
from experiments.bench.timing import check_settings, heading, launch, measured
from g2is_jax.data.batches import (
    Plan,
    length_plans,
    row_lengths,
    training_plans,
    training_shapes,
)
from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import read_records
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.data.widths import COMPILE_COST
from g2is_jax.runs.errors import InputError

PARTS = ("training", "passes")
FEW_WIDTHS = 12
RANDOM_ROWS = 12_000


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of training and passes, by commas
    pool: file of rows; empty: 12,000 random lengths, the median a third of the longest
    tokenizer: folder of the tokenizer that the pool's rows are written for
    tokens: the longest row; longer ones lose their end
    microbatch: tokens of a forward pass
    batches: rows of an optimiser step, by commas
    rows: of the first pass, from the pool's first on; the second goes over all
    compile_cost: what one more shape of a pass costs, in tokens
    widths: most shapes of a pass
    devices: that share each batch
    """

    parts: str = "training,passes"
    pool: str = ""
    tokenizer: str = ""
    tokens: int = 2048
    microbatch: int = 16384
    batches: str = "8,16,32,64,128"
    rows: int = 1000
    compile_cost: int = 1000
    widths: int = 20
    devices: int = 1

    def __post_init__(self):
        check_settings(self, PARTS, ("tokens", "microbatch", "rows", "widths", "devices"))
        if bool(self.pool) != bool(self.tokenizer):
            raise InputError("--pool and --tokenizer come together, or neither")
        if not all(part.isdecimal() and int(part) for part in self.batches.split(",")):
            raise InputError(f"--batches is {self.batches!r}; numbers from 1 up, by commas")


def run(config: BenchConfig) -> dict:
    """Plans all batches; with the machine and the versions that it was done on."""
    return measured(config, {"training": training, "passes": passes}, ("numpy",))


def lengths_of(config: BenchConfig) -> np.ndarray:
    """Returns the tokens of each row of the pool."""
    if not config.pool:
        return np.array(lognormal_lengths(RANDOM_ROWS, config.tokens))
    chat = ChatFormat(load_tokenizer(epath.Path(config.tokenizer)), "auto")
    records = read_records(epath.Path(config.pool))
    return row_lengths(chat.encode_all(records, config.tokens))


def training(config: BenchConfig) -> dict:
    """Returns what an epoch of all rows comes to for each batch size, packed and not."""
    lengths_N = lengths_of(config)
    found: dict[str, dict] = {}
    for batch in map(int, config.batches.split(",")):
        for packed in (True, False):
            shapes = training_shapes(
                lengths_N,
                batch,
                config.microbatch * config.devices,
                multiple=config.devices,
                packed=packed,
            )
            plans = training_plans(lengths_N, batch, 0, 1, shapes)
            side = "packed" if packed else "padded"
            steps = math.ceil(len(lengths_N) / batch)
            of_side = described(plans, lengths_N) | {"batches_a_step": len(plans) / steps}
            found.setdefault(f"training, {batch} rows a step", {})[side] = of_side
    return found


def passes(config: BenchConfig) -> dict:
    """Returns what a pass over the first rows, and over all, comes to, with many widths and few."""
    lengths_N = lengths_of(config)
    tokens, found = config.microbatch * config.devices, {}
    grids = {
        "many widths": (config.compile_cost, config.widths),
        "few widths": (COMPILE_COST, FEW_WIDTHS),
    }
    for some_N in (lengths_N[: config.rows], lengths_N):
        found[f"a pass over {len(some_N):,} rows"] = {
            name: described(length_plans(some_N, tokens, config.devices, *grid), some_N)
            for name, grid in grids.items()
        }
    return found


def described(plans: Sequence[Plan], lengths_N: np.ndarray) -> dict:
    """Returns padding as a share of all tokens, the number of shapes, and that of batches."""
    shapes = {(plan.size_B, plan.width_T) for plan in plans}
    cells = sum(plan.size_B * plan.width_T for plan in plans)
    return {
        "padding": 1 - float(lengths_N.sum()) / cells,
        "shapes": len(shapes),
        "batches": len(plans),
    }


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    lines = [heading(result), "", f"{'':<50}{'padding':>10}{'shapes':>8}{'batches':>9}"]
    for part in result["settings"]["parts"].split(","):
        for name, sides in result[part].items():
            lines += [
                f"{f'{name}, {side}':<50}{of_side['padding']:>10.1%}{of_side['shapes']:>8}"
                f"{of_side['batches']:>9,}"
                for side, of_side in sides.items()
            ]
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table, cores=None)


if __name__ == "__main__":
    main()
