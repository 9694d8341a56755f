"""Per-example gradient features: speed, memory, against LESS's loop, and on several devices.

    python -m experiments.bench.gradients --model=random --rank=128 --output=bench.json

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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.bench.less import CACHED, DRAWS, LessLoop
from experiments.bench.many_devices import against_one_device
from experiments.bench.models import (
    FLOAT32,
    Subject,
    compiled,
    features_of,
    full_batch,
    kept_whole,
    lognormal_lengths,
    pass_over,
    plain_gradient,
    random_rows,
    read_subject,
)
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    machine,
    paired_ratio,
    ranged,
    timed,
    versions,
)
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.runs.errors import InputError

PARTS = ("throughput", "memory", "less", "devices")
SPLIT = "--xla_force_host_platform_device_count="
PLAIN, WHOLE, SQUARES, PROJECTED = "plain gradient", "kept whole", "no projection", "rms x1"
CACHE_BYTES = 6e9  # a larger matrix of signs is not kept


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of throughput, memory, less and devices, by commas
    model: skills, random, or a Hugging Face folder
    rank: rank of the adapter
    batch, tokens: rows of a microbatch and their length
    width, projection: P and the kind of the projection
    less_rows: rows, of many lengths up to `tokens`, of the part less
    less_blocks: LESS's blocks of signs that are timed, the others estimated (0: all)
    devices: virtual devices
    remat: compute blocks again in the backward pass
    threads: cores to use
    repeats: rounds
    """

    parts: str = "throughput,memory,less,devices"
    model: str = "skills"
    rank: int = 8
    batch: int = 32
    tokens: int = 128
    width: int = 8192
    projection: str = "sketch"
    less_rows: int = 32
    less_blocks: int = 0
    devices: int = 8
    remat: bool = False
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rank", "batch", "width", "less_rows", "devices", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.tokens < 2:
            raise InputError(f"--tokens is {self.tokens}; at least 2")


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    settings = dataclasses.replace(FLOAT32, remat=config.remat)
    subject = read_subject(config.model, config.rank, settings)
    parts = {"throughput": throughput, "memory": memory, "less": less, "devices": devices}
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax),
        "model": subject.name,
        "parameters": subject.parameters,
        "gradient_values": subject.values,
        **{part: parts[part](config, subject) for part in config.parts.split(",")},
    }


def sides(config: BenchConfig, subject: Subject) -> dict[str, tuple[Callable, Any]]:
    """Returns each side's jitted function and its first argument; the batch is the rest."""
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


def throughput(config: BenchConfig, subject: Subject) -> dict:
    """Times each side, and compares ours with the others."""
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
    """Returns the share of the first's time that the second does not take; it can be negative."""
    left = paired_ratio(without, whole)
    return {"median": 1 - left["median"], "low": 1 - left["high"], "high": 1 - left["low"]}


def wait_for(function: Callable, *arguments) -> Any:
    return jax.block_until_ready(function(*arguments))


def memory(config: BenchConfig, subject: Subject) -> dict:
    """Returns temporary bytes of the compiled programs; those beyond the plain gradient's are
    extra."""
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


def less(config: BenchConfig, subject: Subject) -> dict:
    """Times rows to features on the host, ours and LESS's, its signs drawn in several ways."""
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "torch is not installed: pip install -r requirements-parity.txt"}
    import torch
    import transformers

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


def devices(config: BenchConfig, subject: Subject) -> dict:
    """Measures in this process if its CPU is cut into devices already, else in a new one."""
    if SPLIT in os.environ.get("XLA_FLAGS", ""):
        projection = ProjectionConfig(config.projection, config.width, repetitions=1)
        return against_one_device(subject, projection, config.batch, config.tokens, config.repeats)
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


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [
        heading(result),
        f"{result['model']}: {result['parameters']:,} parameters, adapter of rank {s['rank']}: "
        f"{result['gradient_values']:,} values; {s['batch']} rows of {s['tokens']} tokens, "
        f"{s['projection']} to {s['width']}",
    ]
    tables = {"throughput": throughput_lines, "memory": memory_lines, "less": less_lines,
              "devices": devices_lines}  # fmt: skip
    for part in PARTS:
        if part in result:
            lines += ["", *tables[part](result[part], s)]
    return "\n".join(lines)


def throughput_lines(found: dict, settings: dict) -> list[str]:
    lines = [
        f"{'':<16}{'examples/s':>11}{'compiled in':>13}{'against plain':>25}{'projection':>26}"
    ]
    for name, seconds in found["seconds"].items():
        rate = settings["batch"] / sorted(seconds)[len(seconds) // 2]
        share = ranged(found["projection_share"][name]) if " x" in name else ""
        lines.append(f"{name:<16}{rate:>11.2f}{found['compile_seconds'][name]:>11.1f} s"
                     f"{ranged(found['against_plain'][name]):>25}{share:>26}")  # fmt: skip
    return [*lines, f"{PROJECTED} against {WHOLE}: {ranged(found['against_whole'][PROJECTED])}"]


def memory_lines(found: dict, settings: dict) -> list[str]:
    taken = ", ".join(f"{name} {x / 1e6:,.0f}" for name, x in found["temporary_bytes"].items())
    return [
        f"temporary MB: {taken}; gradients alone {found['gradients_bytes'] / 1e6:,.0f}",
        f"{PROJECTED} / {WHOLE}: {found['whole_ratio']:.3f}; "
        f"beyond the plain gradient's: {found['extra_ratio']:.3f}",
    ]


def less_lines(found: dict, settings: dict) -> list[str]:
    if "skipped" in found:
        return [f"LESS's loop: {found['skipped']}"]
    blocks, count = found["column_blocks"], len(found["lengths"])
    lines = [f"{count} rows, mean {sum(found['lengths']) / count:.0f} tokens; LESS's projection "
             f"timed on {blocks['timed']} of {blocks['all']} blocks of columns; our first call "
             f"{found['first_call_seconds']:.1f} s"]  # fmt: skip
    for name, seconds in found["seconds"].items():
        ratio = found["ratio"].get(name)
        rate = count / sorted(seconds)[len(seconds) // 2]
        faster = f", ours is {ranged(ratio)} times faster" if ratio else ""
        lines.append(f"{name:<12}{rate:>10.3f} examples/s{faster}")
    if "cached_does_not_fit" in found:
        lines.append(f"cached: {found['cached_does_not_fit'] / 1e9:.1f} GB of signs do not fit")
    return lines


def devices_lines(found: dict, settings: dict) -> list[str]:
    return [
        f"{found['devices']} devices against one: {ranged(found['ratio'])} times as fast; "
        f"{found['collectives']} collectives; largest difference {found['largest_difference']:.1e}"
    ]


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
