"""The programs of a config, compiled for a slice of TPU chips before one is paid for."""

import itertools
import json
from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.features.extract import MOST_TOKENS
from g2is_jax.model.build import Model, build_model
from g2is_jax.pipeline.model_limits import within_limits
from g2is_jax.pipeline.settings import Settings, check_settings
from g2is_jax.planning.base_models import decoder
from g2is_jax.planning.plan import BACKEND
from g2is_jax.planning.slices.programs import RunOnSlice, model_programs
from g2is_jax.planning.slices.report import (
    Found,
    compile_program,
    largest_tokens,
    line,
    title,
)
from g2is_jax.planning.slices.topology import read_slice
from g2is_jax.planning.slices.walks import PoolSize, walk_programs
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import write_atomic


def run(
    config: ConfigDict,
    topology: str,
    pool: PoolSize | None,
    only: Sequence[str],
    finds_largest: bool,
    output: str | None,
    overrides: str | None,
) -> None:
    """Prints a line for each program, and writes them all as JSON and the largest batches as flags.

    pool: of the walks, which are left out without it. only: names of programs; empty: all.
    """
    shapes = decoder(config.model.checkpoint)
    settings = within_limits(check_settings(config, BACKEND), shapes.max_position_embeddings)
    if settings.finetune.full:
        raise InputError(
            "finetune.full: the programs of a fine-tune of all weights are not known here; set it "
            "to False to compile the others"
        )
    model = build_model(shapes, settings.lora, settings.base.model)
    found = print_programs(settings, model, topology, pool, finds_largest, only)
    if output:
        records = [one.record for one in found]
        write_atomic(epath.Path(output), json.dumps(records, indent=2) + "\n")
    if overrides:
        write_overrides(overrides, topology, found)


def print_programs(
    settings: Settings,
    model: Model,
    topology: str,
    pool: PoolSize | None,
    finds_largest: bool,
    only: Sequence[str] = (),
) -> list[Found]:
    """Compiles the programs of a run, printing a line of a table as soon as each is there."""
    on = RunOnSlice(settings, model, read_slice(topology))
    walks = walk_programs(on, pool) if pool else ()
    programs = {program.name: program for program in itertools.chain(model_programs(on), walks)}
    for name in only:
        if name not in programs:
            raise InputError(f"--programs: {name!r} is none of {', '.join(programs)}")
    print(f"\nCompiled for {on.slice}, not run:\n\n{title()}", flush=True)
    found: list[Found] = []
    for name in only or programs:
        so_far = largest_tokens(found)  # a program need not do better than one of the same fields
        most = min([MOST_TOKENS, *(so_far.get(f, MOST_TOKENS) for f in programs[name].fields)])
        found.append(compile_program(programs[name], on.slice, most if finds_largest else None))
        print(line(found[-1]), flush=True)
    return found


def write_overrides(path: str, topology: str, found: Sequence[Found]) -> None:
    """Writes the largest batches as a file of flags, which a run takes after its --config."""
    lines = [f"# The largest batches that a chip of {topology} has room for: compiled, not run."]
    lines += [f"--config.{field}={tokens}" for field, tokens in largest_tokens(found).items()]
    write_atomic(epath.Path(path), "\n".join(lines) + "\n")
    print(f"\nLargest batches: {path}; add --flagfile={path} after --config")
