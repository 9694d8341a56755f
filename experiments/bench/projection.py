"""Random projections: time beside a matrix product, signs a second, and how much they distort.

    python -m experiments.bench.projection --output=bench.json

Parts, by commas: `time` (the dense projection against its own matrix product with the signs in
memory, and the sketch for each million values), `signs` (made in a loop that adds them up in place,
against jax.random's) and `quality` (cosines of real gradients, sketch against dense, over seeds).
Sides run in turns; ratios are of calls of the same round; compilation is in no time.
"""

import dataclasses
import functools
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.bench.models import FLOAT32, adam, cosines, pass_over, project_with, read_subject
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import read_records
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.features.gradients import direction
from g2is_jax.features.projection import WORD, ProjectionConfig, random_bits, sign_rows, words
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER, COMPOSITIONS, WorldConfig, write_world

PARTS = ("time", "signs", "quality")
BATCHES, REPETITIONS = (4, 32), (1, 2)  # of the sketch
HASHED_ROWS, SIGN_ROWS = 2048, 64  # rows of signs that are hashed, and added up in place, at once
OUR_SHARE = 16  # times as many signs of ours, as they would be over too soon to be timed
TOP_SHARE, PERCENTILE = 0.05, 99.9
SKILLS_TOKENS = 128  # the longest row of the built-in pool that is not cut
LONG = 10**6  # steps after which Adam's moments need no correction


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of time, signs and quality, by commas
    width: P of time and signs
    batch, values: B and G of the dense projection
    sketch_values: G of the sketch
    sign_blocks: blocks of 2,048 rows of signs
    rows: rows of the built-in pool for quality
    rank: rank of its adapter
    quality_width, seeds: P of quality, and how many projections
    threads: cores to use
    repeats: rounds
    """

    parts: str = "time,signs,quality"
    width: int = 8192
    batch: int = 256
    values: int = 16384
    sketch_values: int = 2**20
    sign_blocks: int = 4
    rows: int = 300
    rank: int = 8
    quality_width: int = 1024
    seeds: int = 20
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        check_settings(self, PARTS, list(dataclasses.asdict(self))[1:])
        if self.width % 32:
            raise InputError(f"--width is {self.width}; it must be a multiple of 32")


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {"time": projecting, "signs": signs, "quality": quality}
    return measured(config, parts, ("jax",))


def rounds(sides: Mapping[Any, tuple], repeats: int) -> dict[Any, list[float]]:
    """Times jitted functions with their arguments, compiled before."""

    def call(function, *arguments):
        jax.block_until_ready(function(*arguments))

    calls = {name: functools.partial(call, *side) for name, side in sides.items()}
    for first in calls.values():
        first()
    return alternate(calls, repeats)


def projecting(config: BenchConfig) -> dict:
    """Times dense against its matrix product alone; the sketch in ms for each million values."""
    dense = rounds(dense_sides(config), config.repeats)
    sketches, values = {}, {}
    for rows, repetitions in itertools.product(BATCHES, REPETITIONS):
        name = f"{rows} rows x{repetitions}"
        values[name] = rows * config.sketch_values
        sketches[name] = projection_of(
            "sketch", config.width, repetitions, rows, config.sketch_values
        )
    times = rounds(sketches, config.repeats)
    return {
        "dense_seconds": dense,
        "dense_over_product": paired_ratio(dense["dense"], dense["product"]),
        "sketch_seconds": times,
        "sketch_ms_a_million": {n: statistics.median(times[n]) / values[n] * 1e9 for n in times},
    }


def dense_sides(config: BenchConfig) -> dict[str, tuple]:
    """Returns the projection, and its product at the same precision with all signs in memory."""
    dense = projection_of("rademacher", config.width, 1, config.batch, config.values)
    words_GW = words(jnp.asarray([1, 2], jnp.uint32), 0, config.values, config.width)
    product = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    return {
        "dense": dense,
        "product": (product, dense[2]["leaf"], sign_rows(words_GW, config.width)),
    }


def projection_of(kind: str, width: int, repetitions: int, rows: int, values: int) -> tuple:
    """Returns the jitted projection of one leaf, its bits, and the leaf."""
    config = ProjectionConfig(kind, width, repetitions)
    leaves = {"leaf": jax.random.normal(jax.random.key(0), (rows, values))}
    bits = random_bits(config, 0, {"leaf": (values,)})
    return jax.jit(functools.partial(project_with, config)), bits, leaves


def signs(config: BenchConfig) -> dict:
    """Returns signs a second that are added up in place, ours and jax.random's."""
    blocks = {"ours": OUR_SHARE * config.sign_blocks, "jax.random": config.sign_blocks}
    keys = {"ours": jnp.asarray([1, 2], jnp.uint32), "jax.random": jax.random.key(0)}
    tables = {"ours": our_signs, "jax.random": their_signs}
    sides = {n: (added_up(tables[n], config.width, blocks[n]), keys[n]) for n in blocks}
    seconds = rounds(sides, config.repeats)
    each = {n: [s / (blocks[n] * HASHED_ROWS * config.width) for s in seconds[n]] for n in seconds}
    return {
        "signs_a_second": {name: 1 / statistics.median(times) for name, times in each.items()},
        "ratio": paired_ratio(each["jax.random"], each["ours"]),
    }


def added_up(table: Callable, width: int, blocks: int) -> Callable:
    """Returns jitted key -> sum of all signs: some rows are hashed at a time, few are spelt out.

    The sum lies as words spell rows out, (rows, 32, W): XLA would reshape sign by sign in the loop.
    """

    def all_blocks(key: Any) -> Any:
        def block(index: Any, total: Any) -> Any:
            rows = table(key, index, width)

            def add(part: Any, total: Any) -> Any:
                return total + rows(part).reshape(total.shape)

            return jax.lax.fori_loop(0, HASHED_ROWS // SIGN_ROWS, add, total)

        return jax.lax.fori_loop(0, blocks, block, jnp.zeros((SIGN_ROWS, WORD, width // WORD)))

    return jax.jit(all_blocks)


def our_signs(key: Any, block: Any, width: int) -> Callable:
    words_RW = words(key, block * HASHED_ROWS, HASHED_ROWS, width)

    def rows(part: Any) -> Any:
        part_SW = jax.lax.dynamic_slice_in_dim(words_RW, part * SIGN_ROWS, SIGN_ROWS)
        return sign_rows(part_SW, width)

    return rows


def their_signs(key: Any, block: Any, width: int) -> Callable:
    key = jax.random.fold_in(key, block)
    return lambda part: jax.random.rademacher(
        jax.random.fold_in(key, part), (SIGN_ROWS, width), "float32"
    )


def quality(config: BenchConfig) -> dict:
    """Returns how far cosines of projected gradients are from their own, over seeds and pairs."""
    leaves = real_directions(config)
    shapes = {path: leaf.shape[1:] for path, leaf in leaves.items()}
    rows = len(next(iter(leaves.values())))
    truth_NN = cosines(np.concatenate([x.reshape(rows, -1) for x in leaves.values()], axis=1))
    kinds = {"dense": ("rademacher", 1), "sketch x1": ("sketch", 1), "sketch x2": ("sketch", 2)}
    found = {}
    for name, (kind, repetitions) in kinds.items():
        projection = ProjectionConfig(kind, config.quality_width, repetitions)
        project = jax.jit(functools.partial(project_with, projection))
        projected = (
            project(random_bits(projection, s, shapes), leaves) for s in range(config.seeds)
        )
        found[name] = distortion(truth_NN, [cosines(np.asarray(x_NP)) for x_NP in projected])
    return {
        "rows": rows,
        "gradient_values": sum(leaf[0].size for leaf in leaves.values()),
        "kinds": found,
        "against_dense": {name: against(found[name], found["dense"]) for name in found},
    }


def real_directions(config: BenchConfig) -> dict[str, Any]:
    """Returns `rms` of rows of the built-in pool, by the second moment of their own gradients."""
    subject, rows = read_subject("skills", config.rank, FLOAT32), pool_rows(config.rows)
    g_NG = pass_over(subject, "sgd", ProjectionConfig("none", 0, 1), rows, 16 * SKILLS_TOKENS)()
    v_NG = np.broadcast_to(np.mean(g_NG**2, axis=0), g_NG.shape)
    moments = map(jnp.asarray, (g_NG, 0 * g_NG, v_NG, LONG))
    x_NG = np.asarray(direction(adam("rms"), *moments))
    shapes = sorted(subject.model.adapter_shapes.items())
    parts = np.split(x_NG, np.cumsum([math.prod(shape) for _, shape in shapes])[:-1], axis=1)
    return {
        path: part.reshape(-1, *shape) for (path, shape), part in zip(shapes, parts, strict=True)
    }


def pool_rows(count: int) -> list:
    """Returns the first rows of the built-in pool, as tokens of its base."""
    world = WorldConfig(0, (next(iter(COMPOSITIONS)),), 1.0, 0.1, 0.1, 1, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = epath.Path(name)
        write_world(folder, world)
        records = read_records(folder / "pool.jsonl")
    if count > len(records):
        raise InputError(f"--rows is {count}, but the built-in pool has {len(records)}; lower it")
    return ChatFormat(load_tokenizer(BASE_FOLDER), "auto").encode_all(
        records[:count], SKILLS_TOKENS
    )


def distortion(truth_NN: Any, found: Sequence) -> dict[str, float]:
    """Returns rms and high percentile of a cosine's error, and the share of the nearest kept."""
    pairs = np.triu_indices(len(truth_NN), 1)
    errors = np.concatenate([(found_NN - truth_NN)[pairs] for found_NN in found])
    nearest = top(truth_NN)
    kept = [np.mean(nearest & top(found_NN)) / np.mean(nearest) for found_NN in found]
    return {
        "rms": float(np.sqrt(np.mean(errors**2))),
        "percentile": float(np.percentile(np.abs(errors), PERCENTILE)),
        "overlap": float(np.mean(kept)),
    }


def top(cosines_NN: Any) -> Any:
    """Marks the other rows that are nearest to each row: (N, N) of bool."""
    count = max(round(TOP_SHARE * len(cosines_NN)), 1)
    others_NN = np.where(np.eye(len(cosines_NN), dtype=bool), -np.inf, cosines_NN)
    chosen = np.zeros(cosines_NN.shape, bool)
    np.put_along_axis(
        chosen, np.argsort(-others_NN, axis=1, kind="stable")[:, :count], True, axis=1
    )
    return chosen


def against(found: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
    """Returns the ratios of the errors, and the difference of the overlaps."""
    return {
        "rms": found["rms"] / dense["rms"],
        "percentile": found["percentile"] / dense["percentile"],
        "overlap": found["overlap"] - dense["overlap"],
    }


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [f"{heading(result)}; to {s['width']} values"]
    if "time" in result:
        lines.append(
            f"\ndense, {s['batch']} rows of {s['values']:,} values: of its product's time with "
            f"signs in memory {ranged(result['time']['dense_over_product'], 2)}"
        )
        for name, ms in result["time"]["sketch_ms_a_million"].items():
            lines.append(f"sketch, {name}: {ms:.2f} ms a million values")
    if "signs" in result:
        rates = result["signs"]["signs_a_second"].items()
        rated = ", ".join(f"{name} {rate / 1e9:.3f}" for name, rate in rates)
        lines.append(f"\nG signs/s: {rated}; ratio {ranged(result['signs']['ratio'], 1)}")
    if "quality" in result:
        lines += ["", *quality_lines(result["quality"], s)]
    return "\n".join(lines)


def quality_lines(found: dict, settings: dict) -> list[str]:
    lines = [
        f"cosines of {found['rows']} gradients of {found['gradient_values']:,} values, projected "
        f"to {settings['quality_width']}, {settings['seeds']} seeds; against dense in brackets",
        f"{'':<12}{'rms error':>18}{f'{PERCENTILE}th pct':>18}{'overlap of nearest':>22}",
    ]
    for name, kind in found["kinds"].items():
        ratio = found["against_dense"][name]
        lines.append(
            f"{name:<12}{kind['rms']:>10.5f} ({ratio['rms']:.3f}){kind['percentile']:>10.4f} "
            f"({ratio['percentile']:.3f}){kind['overlap']:>12.3f} ({ratio['overlap']:+.3f})"
        )
    return lines


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
