"""What the compiler says of a program: seconds, bytes a chip, collectives, whether it fits."""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from g2is_jax.features.extract import OUT_OF_MEMORY
from g2is_jax.runs.errors import InputError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(.*")


@dataclass(frozen=True)
class Compiled:
    """A program of a slice, compiled, not run. Bytes are on each chip.

    output: what takes no argument's place. does_not_fit: the compiler's words where a chip lacks
    the memory; all else is then 0. across_hosts: the collectives whose chips are of several hosts.
    """

    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    argument_bytes: int = 0
    temporary_bytes: int = 0
    output_bytes: int = 0
    code_bytes: int = 0
    collectives: dict[str, int] = field(default_factory=dict)
    across_hosts: dict[str, int] = field(default_factory=dict)
    does_not_fit: str = ""

    @property
    def bytes(self) -> int:
        """All that the program holds on a chip while it runs."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes


def compiled(lower: Callable[[], Any], chips_per_host: int | None) -> Compiled:
    """Compiles the program that `lower` traces.

    chips_per_host: of a program of several hosts, in which those of a host come one after another.
    """
    start = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(OUT_OF_MEMORY):
            raise
        return Compiled(does_not_fit=str(error).splitlines()[0])
    ended = time.perf_counter()
    memory, found = program.memory_analysis(), list(_collectives(_text(program)))
    crossing = [kind for kind, groups in found if _crosses(groups, chips_per_host)]
    return Compiled(
        trace_seconds=round(traced - start, 1),
        compile_seconds=round(ended - traced, 1),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        collectives=dict(Counter(kind for kind, _ in found)),
        across_hosts=dict(Counter(crossing)),
    )


def _text(program: Any) -> str:
    try:
        return program.as_text()
    except jax.errors.JaxRuntimeError as error:
        versions = ", ".join(f"{name} {version(name)}" for name in ("jaxlib", "libtpu"))
        raise InputError(
            f"{versions}: these two do not go together ({str(error).splitlines()[0]}); "
            "`pip install 'jax[tpu]'` brings the libtpu that does"
        ) from error


def _collectives(text: str) -> Iterator[tuple[str, list[list[int]]]]:
    """The collectives of a compiled program, each with its groups of devices."""
    for match in _COLLECTIVE.finditer(text):
        groups = re.search(r"(?:replica_groups|source_target_pairs)=(.*?)(?:, \w+=|$)", match[0])
        if groups is None:
            raise ValueError(f"no groups of devices in {match[0][:200]!r}")
        yield match[1], device_groups(groups[1])


def device_groups(text: str) -> list[list[int]]:
    """Reads XLA's three notations of groups: `{{0,1},{2,3}}`, `[2,2]<=[4]` with or without a
    transposition `[2,2]<=[2,2]T(1,0)`, and axes of a mesh, `mesh['a'=2,'b'=2] {'b'}`."""
    if text.startswith("{"):
        return [list(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", text)]
    if axes := re.fullmatch(r"mesh\[(.*)\] \{([^:]*)\}", text):
        return _groups_of_axes(dict(re.findall(r"'(\w+)'=(\d+)", axes[1])), axes[2])
    if tiles := re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, sides, order = tiles.groups()
        places = _in_order(_numbers(sides))
        return (
            places.transpose(_numbers(order) if order else None).reshape(_numbers(shape)).tolist()
        )
    raise ValueError(f"groups of devices in a notation that is not known here: {text!r}")


def _groups_of_axes(sides: dict[str, str], named: str) -> list[list[int]]:
    """The groups of devices that differ along the named axes of a mesh alone."""
    inside = [name for name in sides if f"'{name}'" in named]
    axes = [list(sides).index(name) for name in sides if name not in inside]
    axes += [list(sides).index(name) for name in inside]
    width = math.prod(int(sides[name]) for name in inside)
    places = _in_order(tuple(map(int, sides.values())))
    return places.transpose(axes).reshape(-1, width).tolist()


def _in_order(sides: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(sides)).reshape(sides)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _crosses(groups: list[list[int]], chips_per_host: int | None) -> bool:
    """True if a group has chips of several hosts; no group stands for all chips."""
    if chips_per_host is None:
        return False
    hosts = [{device // chips_per_host for device in group} for group in groups]
    return not hosts or any(len(group) > 1 for group in hosts)
