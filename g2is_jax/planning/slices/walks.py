"""The walks of a run, traced for a pool that lies on chips that need not be there."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from g2is_jax.features.projection import features_width
from g2is_jax.features.rows import dtype_in_memory
from g2is_jax.features.unit_rows import UnitRows
from g2is_jax.planning.slices.programs import Program, RunOnSlice
from g2is_jax.planning.slices.shapes import bytes_on_a_chip, scalar
from g2is_jax.selection.methods import WalkSettings, walking
from g2is_jax.selection.walk.by_component import walk_component
from g2is_jax.selection.walk.equations import WalkPool
from g2is_jax.selection.walk.front import walk_on_front
from g2is_jax.selection.walk.rules import rules_of
from g2is_jax.selection.walk.select import FRONT, WAITING, goes_on_a_front
from g2is_jax.selection.walk.together import walk_together


@dataclass(frozen=True)
class PoolSize:
    """The rows of the pool, and the core directions of a target."""

    rows: int
    directions: int


def walk_programs(run: RunOnSlice, size: PoolSize) -> Iterator[Program]:
    """The walk of each method that has one; of a walk by components, that of one component."""
    held = bytes_on_a_chip(run.local.base(run.model))
    for method in walking(run.settings.selection.methods):
        yield _walk(run, method, size, held)


def _walk(run: RunOnSlice, method: str, size: PoolSize, held: int) -> Program:
    chips, settings = run.local, run.settings.selection.walks[method]
    pool, core_CP = _pool(run, settings, size)
    rules = chips.everywhere(rules_of(settings.walk))
    used_N = jax.ShapeDtypeStruct(pool.costs_N.shape, np.bool_, sharding=pool.costs_N.sharding)
    whole, number = chips.everywhere(scalar(np.int32)), chips.everywhere(scalar(np.float32))
    spent_S = chips.everywhere(jax.ShapeDtypeStruct((1,), np.int32))
    weights_C = chips.everywhere(jax.ShapeDtypeStruct(core_CP.shape[:1], np.float32))
    name = "walk" if method == "g2is" else f"walk of {method}"

    def lower(rows: int):
        if settings.walk.order == "components":
            core_P = chips.everywhere(jax.ShapeDtypeStruct(core_CP.shape[1:], np.float32))
            return walk_component.lower(pool, rules, core_P, used_N, spent_S, whole)
        arguments = (pool, rules, core_CP, weights_C, number, number, used_N, spent_S, whole)
        if goes_on_a_front(settings.walk, pool.neighbours_NE is not None, size.rows):
            return walk_on_front.lower(*arguments, FRONT, WAITING)
        return walk_together.lower(*arguments)

    return Program(name, 0, 0, lower, chips, held=held)


def _pool(run: RunOnSlice, settings: WalkSettings, size: PoolSize):
    """The pool as the walk takes it, and the core directions (C, P)."""
    chips, features = run.local, run.settings.features
    width = features_width(features.projection, run.gradient_model.gradient_shapes)
    width = width // 2**features.folds * features.checkpoints
    stored = "float32" if features.checkpoints > 1 else features.store.dtype
    rows = -(-size.rows // chips.devices.size)

    def over_rows(dtype, *sides: int):
        return chips.of_rows((rows, *sides), dtype)

    unit = UnitRows(
        over_rows(dtype_in_memory(stored), width),
        over_rows(np.float32),
        over_rows(np.float32),
        None,
    )
    near_NE = None
    if settings.graph.kind == "knn":
        near_NE = over_rows(np.int32, settings.graph.neighbours)
    cap = chips.everywhere(scalar(np.int32))
    pool = WalkPool(unit, over_rows(np.int32), over_rows(np.int32), cap, near_NE)
    core_CP = chips.everywhere(jax.ShapeDtypeStruct((size.directions, width), np.float32))
    return pool, core_CP
