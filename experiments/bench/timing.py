"""What the bench scripts share: flags, the machine, timing in turns, and the result's file.

Imports no jax: a script pins its cores before it does, as XLA makes a thread for each it may use.
"""

import dataclasses
import importlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up notes

from absl import app, flags, logging
from etils import epath

from g2is_jax.runs.errors import FAILED, InputError
from g2is_jax.runs.storage import write_atomic

Side = TypeVar("Side")
Result = TypeVar("Result")
FLAGS: dict[type, Callable] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def launch(run: Callable[[Any], dict], defaults: Any, table: Callable[[dict], str]) -> None:
    """A flag for each field of a frozen dataclass; `--output` gets `run(settings)` as JSON.

    Prints the result's table. A user's mistake (an InputError) ends in one line and in status 2, a
    result that has something under "wrong" in status 1.
    """
    values: dict[str, Any] = dataclasses.asdict(defaults)
    for field, value in values.items():
        FLAGS[type(value)](field, value, type(defaults).__doc__)
    output = flags.DEFINE_string("output", None, "JSON file of the result.")

    def main(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # jax tells which accelerators it does not find
        if len(argv) > 1:
            raise InputError(f"{argv[1]!r} is not a flag; flags look like --repeats=3")
        result = run(type(defaults)(**{field: flags.FLAGS[field].value for field in values}))
        if output.value:
            write_json(output.value, result)
        print(table(result))
        return int(bool(result.get("wrong")))

    try:
        app.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def write_json(output: epath.PathLike, result: dict) -> None:
    epath.Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, json.dumps(result, indent=2) + "\n")


def pin(threads: int) -> list[int]:
    """Keep this process to so many cores, which are returned; to be called before jax starts.

    The threads that there are already, NumPy's for instance, are kept to them too.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot pin a process to cores; run on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise InputError(f"--threads={threads}, but there are {len(cores)} cores; lower it")
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores[:threads])
    return cores[:threads]


def machine(cores: Sequence[int]) -> dict:
    """The processor, the cores in use, memory and load; an accelerator where jax has one."""
    import jax

    names = [platform.processor() or platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            found = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        names = found[:1] or names
    device = jax.devices()[0]
    return {
        "cpu": names[0],
        "cores": list(cores),
        "memory_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        "load": os.getloadavg()[0],
        **({} if device.platform == "cpu" else {"accelerator": device.device_kind}),
    }


def versions(*modules: ModuleType) -> dict[str, str]:
    return {m.__name__: m.__version__ for m in modules} | {"python": platform.python_version()}


def measured(config: Any, parts: Mapping[str, Callable], modules: Sequence[str]) -> dict:
    """What the parts named in `config.parts` return, each given the config, on `config.threads`
    cores; with the settings, the machine and the modules' versions."""
    cores = pin(config.threads)
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(cores),
        "versions": versions(*map(importlib.import_module, modules)),
        **{part: parts[part](config) for part in config.parts.split(",")},
    }


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of a call, and what it returns: it has to wait until its result is there."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def alternate(sides: Mapping[Side, Callable[[], object]], repeats: int) -> dict[Side, list[float]]:
    """Seconds of each side's calls, made in turns and every other round in reverse order.

    So what else the machine does hits all sides of a round, and none is always the first. Each
    call has to wait until its result is there, and to have been compiled.
    """
    seconds: dict[Side, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in list(sides)[:: -1 if repeat % 2 else 1]:
            seconds[side].append(timed(sides[side])[0])
    return seconds


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """The median, the smallest and the largest ratio of calls of the same round."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def growth_with(calls: Mapping[int, Callable[[], object]], repeats: int) -> dict:
    """Median seconds of calls of these sizes, made in turns, and their exponent."""
    medians = [statistics.median(seconds) for seconds in alternate(calls, repeats).values()]
    return {"sizes": list(calls), "seconds": medians, "exponent": slope(list(calls), medians)}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent of a power law, by least squares of the logarithms."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(time) for time in seconds]
    ).slope


def check_settings(settings: Any, parts: Sequence[str], positive: Iterable[str]) -> None:
    """InputError for an unknown name among `settings.parts`, and for a number below 1."""
    for part in settings.parts.split(","):
        if part not in parts:
            raise InputError(f"--parts: {part!r} is unknown; choose from {', '.join(parts)}")
    for field in positive:
        if getattr(settings, field) < 1:
            raise InputError(f"--{field} is {getattr(settings, field)}; at least 1")


def heading(result: dict) -> str:
    """The first line of a table: on what the result was measured."""
    told = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{result['machine']['cpu']}, {len(result['machine']['cores'])} core(s); {told}"


def ranged(ratio: Mapping[str, float], digits: int = 3) -> str:
    """A paired ratio as the tables have it."""
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low}..{high})"
