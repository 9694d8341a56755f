"""The parts that all benchmarks share: flags, cores, the machine, timing in turns, the result.

Libraries make a thread for each core that they see: BLAS when NumPy is imported, XLA when it first
computes. So `launch` starts the process anew on the cores of --threads before anything is computed,
and a benchmark may import what it likes at its top.
"""

import dataclasses
import importlib
import json
import math
import operator
import os
import platform
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up notes

import jax
from absl import app, flags, logging
from etils import epath

from g2is_jax.runs.errors import FAILED, InputError
from g2is_jax.runs.storage import write_atomic

flags.disclaim_key_flags()  # --help shows the flags as the benchmark's own
Side = TypeVar("Side")
Result = TypeVar("Result")
FLAGS: dict[type, Callable] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def launch(
    run: Callable[[Any], dict],
    defaults: Any,
    table: Callable[[dict], str],
    cores: Callable[[Any], int] | None = operator.attrgetter("threads"),
) -> None:
    """Run a benchmark with a flag for each field of its settings, a frozen dataclass.

    Prints the result's table; `--output` gets `run(settings)` as JSON. The process is kept to
    `cores(settings)` cores, to all where that is None. A user's mistake (an InputError) ends in one
    line and in status 2, a result that has something under "wrong" in status 1.
    """
    values: dict[str, Any] = dataclasses.asdict(defaults)
    explained = explanations(type(defaults))
    for field, value in values.items():
        FLAGS[type(value)](field, value, explained[field])
    output = flags.DEFINE_string("output", None, "JSON file of the result.")

    def main(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # jax lists the accelerators that it does not find
        if len(argv) > 1:
            raise InputError(f"{argv[1]!r} is not a flag; flags look like --repeats=3")
        settings = type(defaults)(**{field: flags.FLAGS[field].value for field in values})
        if cores:
            restart_on(cores(settings))
        result = run(settings)
        if output.value:
            write_json(output.value, result)
        print(table(result))
        return int(bool(result.get("wrong")))

    try:
        app.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def explanations(settings: type) -> dict[str, str]:
    """Returns the help text of each field, from the `field, field: text` lines of a docstring."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n\s*(?=[a-z_]+(?:, [a-z_]+)*: )", settings.__doc__ or "")[1:]:
        names, _, text = " ".join(entry.split()).partition(": ")
        found |= dict.fromkeys(names.split(", "), text)
    return found


def restart_on(threads: int) -> None:
    """Start this process anew on so many of its cores, unless it has no more than those."""
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot pin a process to cores; run on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise InputError(f"--threads={threads}, but there are {len(cores)} cores; lower it")
    if threads < len(cores):
        os.sched_setaffinity(0, cores[:threads])
        os.execv(sys.executable, sys.orig_argv)


def write_json(output: epath.PathLike, result: dict) -> None:
    epath.Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, json.dumps(result, indent=2) + "\n")


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def usable_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine() -> dict:
    """Describes the processor, the cores in use, memory, load, and the accelerator if any."""
    names = [platform.processor() or platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            found = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        names = found[:1] or names
    device = jax.devices()[0]
    return {
        "cpu": names[0],
        "cores": usable_cores(),
        "memory_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        "load": os.getloadavg()[0],
        **({} if device.platform == "cpu" else {"accelerator": device.device_kind}),
    }


def versions(*modules: ModuleType) -> dict[str, str]:
    return {m.__name__: m.__version__ for m in modules} | {"python": platform.python_version()}


def measured(config: Any, parts: Mapping[str, Callable], modules: Sequence[str]) -> dict:
    """Returns the result of each part named in `config.parts`, called with the config; with the
    settings, the machine and the modules' versions."""
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(*map(importlib.import_module, modules)),
        **{part: parts[part](config) for part in config.parts.split(",")},
    }


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Returns the seconds of a call and its result, for which it has to wait itself."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def build_program(function: Any, *arguments: Any) -> tuple[dict[str, float], Any]:
    """Returns the seconds that tracing and compiling a jitted function take, and the program.

    Arguments may be shapes. What jax has traced and compiled before is forgotten.
    """
    jax.clear_caches()
    trace, lowered = timed(lambda: function.lower(*arguments))
    compiling, program = timed(lowered.compile)
    return {"trace": trace, "compile": compiling}, program


def alternate(sides: Mapping[Side, Callable[[], object]], repeats: int) -> dict[Side, list[float]]:
    """Returns the seconds of each side's calls, made in turns and every other round in reverse.

    So what else the machine does hits all sides of a round, and none is always the first. Each
    call has to wait until its result is there, and to have been compiled.
    """
    seconds: dict[Side, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in list(sides)[:: -1 if repeat % 2 else 1]:
            seconds[side].append(timed(sides[side])[0])
    return seconds


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Returns the median, the smallest and the largest ratio of calls of the same round."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def growth_with(calls: Mapping[int, Callable[[], object]], repeats: int) -> dict:
    """Returns the median seconds of calls of these sizes, made in turns, and their exponent."""
    medians = [statistics.median(seconds) for seconds in alternate(calls, repeats).values()]
    return {"sizes": list(calls), "seconds": medians, "exponent": slope(list(calls), medians)}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Returns the exponent of a power law, by least squares of the logarithms."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(time) for time in seconds]
    ).slope


def check_settings(settings: Any, parts: Sequence[str], positive: Iterable[str]) -> None:
    """Raises InputError for an unknown name among `settings.parts`, and for a number below 1."""
    for part in settings.parts.split(","):
        if part not in parts:
            raise InputError(f"--parts: {part!r} is unknown; choose from {', '.join(parts)}")
    for field in positive:
        if getattr(settings, field) < 1:
            raise InputError(f"--{field} is {getattr(settings, field)}; at least 1")


def heading(result: dict) -> str:
    """Returns the first line of a table: the machine and the versions of a result."""
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{result['machine']['cpu']}, {len(result['machine']['cores'])} core(s); {used}"


def ranged(ratio: Mapping[str, float], digits: int = 3) -> str:
    """Formats a paired ratio as `median (low..high)`."""
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low}..{high})"
