"""Per-example gradient features: speed, memory, against LESS's loop, and on several devices.

    python -m experiments.bench_gradients --model=random --rank=128 --output=bench.json

Parts, by commas: `throughput` (against the plain gradient of the same batch, and against gradients
kept whole), `memory` (of the compiled programs), `less` (against LESS's loop in torch, end to end)
and `devices` (of a CPU cut into virtual ones, in a process of its own). Sides run on the same cores
in turns; ratios are of calls of the same round; compilation is apart.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    machine,
    paired_ratio,
    pin,
    ranged,
    timed,
    versions,
)
from g2is_jax.runs.errors import InputError

PARTS = ("throughput", "memory", "less", "devices")
SPLIT = "--xla_force_host_platform_device_count="
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
PLAIN, WHOLE, SQUARES, PROJECTED = "plain gradient", "kept whole", "no projection", "rms x1"
CACHE_BYTES = 6e9  # a larger matrix of signs is not kept


@dataclass(frozen=True)
class BenchConfig:
    """parts: as above; model: skills, random, or a Hugging Face folder; rank: of the adapter.
    batch, tokens: rows of a microbatch and their length; less_rows: of many lengths up to `tokens`;
    less_blocks: of LESS's columns of signs, only so many are timed, the others reckoned (0: all);
    devices: virtual ones; remat: compute blocks again in the backward pass; threads: cores, of both
    sides; repeats: rounds."""

    parts: str
    model: str
    rank: int
    batch: int
    tokens: int
    width: int
    projection: str
    less_rows: int
    less_blocks: int
    devices: int
    remat: bool
    threads: int
    repeats: int

    def __post_init__(self):
        positive = ("rank", "batch", "width", "less_rows", "devices", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.tokens < 2:
            raise InputError(f"--tokens is {self.tokens}; at least 2")


def run(config: BenchConfig) -> dict:
    """The parts' measurements, with the machine and the versions they were made on."""
    cores = pin(config.threads)
    import jax

    from experiments.bench.models import read_subject

    subject = read_subject(config.model, config.rank, config.remat)
    parts = {"throughput": throughput, "memory": memory, "less": less, "devices": devices}
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(cores),
        "versions": versions(jax),
        "model": subject.name,
        "parameters": subject.parameters,
        "gradient_values": subject.values,
        **{part: parts[part](config, subject) for part in config.parts.split(",")},
    }


def sides(config: BenchConfig, subject: Any) -> dict[str, tuple[Callable, Any]]:
    """Of each side, what is jitted and its first argument; the batch is the rest."""
    from experiments.bench.models import features_of, kept_whole, plain_gradient
    from g2is_jax.features.projection import ProjectionConfig

    once, twice = (ProjectionConfig(config.projection, config.width, n) for n in (1, 2))
    found = {
        f"{kind} x{projection.repetitions}": features_of(subject, kind, projection)
        for kind in ("rms", "adam")
        for projection in (once, twice)
    }
    inputs = found[PROJECTED][1]
    return {
        PLAIN: (plain_gradient(subject), inputs),
        **found,
        WHOLE: (kept_whole(subject, "rms", once), inputs),
        SQUARES: (kept_whole(subject, "rms", None), inputs),
    }


def throughput(config: BenchConfig, subject: Any) -> dict:
    """Examples a second of each side, and how fast ours are against the others."""
    from experiments.bench.models import full_batch

    batch = full_batch(subject, config.batch, config.tokens)
    compile_seconds, calls = {}, {}
    for name, (function, inputs) in sides(config, subject).items():
        compile_seconds[name], program = timed(functools.partial(compiled, function, inputs, batch))
        calls[name] = functools.partial(wait_for, program, inputs, *batch)
        calls[name]()
    seconds = alternate(calls, config.repeats)
    return {
        "compile_seconds": compile_seconds,
        "seconds": seconds,
        "against_plain": {n: paired_ratio(seconds[PLAIN], seconds[n]) for n in seconds},
        "against_whole": {n: paired_ratio(seconds[WHOLE], seconds[n]) for n in seconds},
        "projection_share": {n: share(seconds[n], seconds[SQUARES]) for n in seconds},
    }


def share(whole: Sequence[float], without: Sequence[float]) -> dict[str, float]:
    """Of the time of the first, what the second does not take; below zero where it takes more."""
    left = paired_ratio(without, whole)
    return {"median": 1 - left["median"], "low": 1 - left["high"], "high": 1 - left["low"]}


def compiled(function: Any, inputs: Any, batch: tuple) -> Any:
    return function.lower(inputs, *batch).compile()


def wait_for(function: Callable, *arguments) -> Any:
    import jax

    return jax.block_until_ready(function(*arguments))


def memory(config: BenchConfig, subject: Any) -> dict:
    """Temporary bytes of the compiled programs; what is beyond the plain gradient's is extra."""
    from experiments.bench.models import full_batch

    batch, every = full_batch(subject, config.batch, config.tokens), sides(config, subject)
    taken = {
        name: compiled(*every[name], batch).memory_analysis().temp_size_in_bytes
        for name in (PLAIN, PROJECTED, WHOLE)
    }
    extra = {name: taken[name] - taken[PLAIN] for name in (PROJECTED, WHOLE)}
    return {
        "temporary_bytes": taken,
        "extra_bytes": extra,
        "gradients_bytes": 4 * config.batch * subject.values,
        "extra_ratio": extra[PROJECTED] / extra[WHOLE],
        "whole_ratio": taken[PROJECTED] / taken[WHOLE],
    }


def less(config: BenchConfig, subject: Any) -> dict:
    """From rows to features on the host, ours and LESS's, its signs drawn in several ways."""
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "torch is not installed: pip install -r requirements-parity.txt"}
    import torch
    import transformers

    from experiments.bench.less import CACHED, DRAWS, LessLoop
    from experiments.bench.models import lognormal_lengths, pass_over, random_rows
    from g2is_jax.features.projection import ProjectionConfig

    torch.set_num_threads(config.threads)
    lengths = lognormal_lengths(config.less_rows, config.tokens)
    rows = random_rows(lengths, subject.model.config.vocab_size)
    fits = subject.values * config.width * 4 <= CACHE_BYTES
    loops = {
        draw: LessLoop(subject, config.width, draw, config.less_blocks)
        for draw in DRAWS
        if fits or draw != CACHED
    }
    missing: dict[str, list[float]] = {draw: [] for draw in loops}

    def looped(draw: str) -> None:
        loops[draw].features(rows)
        missing[draw].append(loops[draw].missing)

    projection = ProjectionConfig(config.projection, config.width, repetitions=1)
    ours = pass_over(subject, "adam_less", projection, rows, config.batch * config.tokens)
    first_call, _ = timed(ours)
    for loop in loops.values():
        loop.direction(rows[0])  # what torch does once
    calls: dict[str, Callable] = {
        "ours": ours,
        **{draw: functools.partial(looped, draw) for draw in loops},
    }
    seconds = alternate(calls, config.repeats)
    for draw, left in missing.items():
        seconds[draw] = [a + b for a, b in zip(seconds[draw], left, strict=True)]
    return {
        "versions": versions(torch, transformers),
        "lengths": lengths,
        "first_call_seconds": first_call,
        "column_blocks": {
            "timed": loops[DRAWS[0]].timed_blocks,
            "all": len(loops[DRAWS[0]].starts),
        },
        "seconds": seconds,
        "ratio": {draw: paired_ratio(seconds[draw], seconds["ours"]) for draw in loops},
        **({} if fits else {"cached_does_not_fit": subject.values * config.width * 4}),
    }


def devices(config: BenchConfig, subject: Any) -> dict:
    """In this process if its CPU is cut into devices already, else in one where it is."""
    if SPLIT in os.environ.get("XLA_FLAGS", ""):
        return on_devices(config, subject)
    flags = dataclasses.asdict(dataclasses.replace(config, parts="devices"))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.bench.gradients"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        wanted = f"{os.environ.get('XLA_FLAGS', '')} {SPLIT}{config.devices}"
        environment = {**os.environ, "XLA_FLAGS": wanted.strip()}
        file = os.path.join(folder, "bench.json")
        subprocess.run(
            [*command, f"--output={file}"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        with open(file) as text:
            return json.load(text)["devices"]


def on_devices(config: BenchConfig, subject: Any) -> dict:
    """A microbatch on each device at once, against as many calls of one device."""
    import jax
    import numpy as np

    from experiments.bench.models import features_of, full_batch
    from g2is_jax.features.projection import ProjectionConfig
    from g2is_jax.runs.mesh import data_mesh

    projection = ProjectionConfig(config.projection, config.width, repetitions=1)
    rows = full_batch(subject, config.batch * config.devices, config.tokens)

    def side(mesh: Any, parts: int) -> tuple[Callable, str]:
        function, inputs = features_of(subject, "rms", projection, mesh)
        batches = list(zip(*(np.split(np.asarray(x), parts) for x in rows), strict=True))
        text = compiled(function, inputs, batches[0]).as_text()

        def features() -> Any:
            found = [jax.device_get(function(inputs, *batch)) for batch in batches]
            rows_BP = np.concatenate([part.features_KBP[0] for part in found])
            return rows_BP / np.linalg.norm(rows_BP, axis=1, keepdims=True)

        return features, text

    (one, _), (many, text) = side(None, config.devices), side(data_mesh(), 1)
    difference = np.abs(one() - many()).max()
    seconds = alternate({"one": one, "many": many}, config.repeats)
    return {
        "devices": len(jax.devices()),
        "seconds": seconds,
        "ratio": paired_ratio(seconds["one"], seconds["many"]),
        "collectives": count_collectives(text),
        "largest_difference": float(difference),
    }


def count_collectives(program: str) -> int:
    """Operations of a compiled program's text that devices exchange data in."""
    names = "|".join(COLLECTIVES)
    return len(re.findall(rf"= \S.* (?:{names})(?:-start)?\(", program))


def table(result: dict) -> str:
    """What a reader wants to know of a result, in a few lines."""
    s = result["settings"]
    lines = [
        heading(result),
        f"{result['model']}: {result['parameters']:,} parameters, adapter of rank {s['rank']}: "
        f"{result['gradient_values']:,} values; {s['batch']} rows of {s['tokens']} tokens, "
        f"{s['projection']} to {s['width']}",
    ]
    tables = {"throughput": of_throughput, "memory": of_memory, "less": of_less,
              "devices": of_devices}  # fmt: skip
    for part in PARTS:
        if part in result:
            lines += ["", *tables[part](result[part], s)]
    return "\n".join(lines)


def of_throughput(found: dict, settings: dict) -> list[str]:
    lines = [
        f"{'':<16}{'examples/s':>11}{'compiled in':>13}{'against plain':>25}{'projection':>26}"
    ]
    for name, seconds in found["seconds"].items():
        rate = settings["batch"] / sorted(seconds)[len(seconds) // 2]
        share = ranged(found["projection_share"][name]) if " x" in name else ""
        lines.append(f"{name:<16}{rate:>11.2f}{found['compile_seconds'][name]:>11.1f} s"
                     f"{ranged(found['against_plain'][name]):>25}{share:>26}")  # fmt: skip
    return [*lines, f"{PROJECTED} against {WHOLE}: {ranged(found['against_whole'][PROJECTED])}"]


def of_memory(found: dict, settings: dict) -> list[str]:
    taken = ", ".join(f"{name} {x / 1e6:,.0f}" for name, x in found["temporary_bytes"].items())
    return [
        f"temporary MB: {taken}; gradients alone {found['gradients_bytes'] / 1e6:,.0f}",
        f"{PROJECTED} / {WHOLE}: {found['whole_ratio']:.3f}; "
        f"beyond the plain gradient's: {found['extra_ratio']:.3f}",
    ]


def of_less(found: dict, settings: dict) -> list[str]:
    if "skipped" in found:
        return [f"LESS's loop: {found['skipped']}"]
    blocks, count = found["column_blocks"], len(found["lengths"])
    lines = [f"{count} rows, mean {sum(found['lengths']) / count:.0f} tokens; LESS's projection "
             f"timed on {blocks['timed']} of {blocks['all']} blocks of columns; our first call "
             f"{found['first_call_seconds']:.1f} s"]  # fmt: skip
    for name, seconds in found["seconds"].items():
        ratio = found["ratio"].get(name)
        rate = count / sorted(seconds)[len(seconds) // 2]
        told = f", ours is {ranged(ratio)} times faster" if ratio else ""
        lines.append(f"{name:<12}{rate:>10.3f} examples/s{told}")
    if "cached_does_not_fit" in found:
        lines.append(f"cached: {found['cached_does_not_fit'] / 1e9:.1f} GB of signs do not fit")
    return lines


def of_devices(found: dict, settings: dict) -> list[str]:
    return [
        f"{found['devices']} devices against one: {ranged(found['ratio'])} times as fast; "
        f"{found['collectives']} collectives; largest difference {found['largest_difference']:.1e}"
    ]


def main() -> None:
    defaults = BenchConfig("throughput,memory,less,devices", "skills", 8, 32, 128, 8192, "sketch",
                           32, 0, 8, False, 1, 5)  # fmt: skip
    launch(run, defaults, table)


if __name__ == "__main__":
    main()
