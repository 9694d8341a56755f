"""Selections that processes share: the rows that one process chooses, of each dtype."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from g2is_jax.features.rows import DTYPES, Rows, quantised
from g2is_jax.runs.mesh import selection_mesh
from g2is_jax.runs.processes import is_first, process_share
from g2is_jax.selection.budget import BudgetConfig, Selection, limits
from g2is_jax.selection.core import core_knowledge
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.rivals.bids import bids
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.less import less, less_rr
from g2is_jax.selection.rivals.tsds import tsds_knn
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.process_group import run_in_processes
from tests.support.walk_instances import PAPER, PAPER_KNOWLEDGE

N, P, M = 4_301, 24, 12  # more than twice the front of a walk, and no multiple of any share
BUDGET = BudgetConfig(budget=60, unit="rows", source_cap=1.0)
DTYPES_OF = {2: ("bfloat16", "int8"), 4: ("float32",)}  # by the number of processes
BY_COSINES = {"less_rr": less_rr, "bids": bids, "tsds_knn": tsds_knn, "coverage": coverage}
TOGETHER = replace(
    PAPER, order="together", on_exhausted="relax", pull=1.0, fairness=1.0, conflict_worth=0.8
)


def walks(pool: Rows, validation_MP: np.ndarray, every: bool) -> dict[str, list[int]]:
    """The rows that walks take, in order: those of the presets, or every way of walking."""
    mesh, allowed = selection_mesh(), limits(BUDGET, np.ones(N, int), ["a"] * N)
    core = core_knowledge(validation_MP, replace(PAPER_KNOWLEDGE, keep="count", keep_value=5))
    of_rows = core_knowledge(validation_MP, replace(PAPER_KNOWLEDGE, anchors="rows"))
    found = {
        "paper": gradient_walk(pool, core, allowed, PAPER, mesh=mesh),
        "together": gradient_walk(pool, of_rows, allowed, TOGETHER, mesh=mesh),
    }
    if every:
        near_NE, _ = neighbours(pool, 20, mesh)
        coherent = replace(TOGETHER, pull=0.7)
        found |= {
            "one after another": gradient_walk(pool, core, allowed, PAPER, mesh=mesh, slots=1),
            "stored neighbours": gradient_walk(pool, core, allowed, PAPER, near_NE, mesh),
            "coherent": gradient_walk(pool, of_rows, allowed, coherent, mesh=mesh),
        }
    return numbers(found)


def rivals(pool: Rows, validation_MP: np.ndarray) -> dict[str, list[int]]:
    """The rows that methods by cosines take, in order."""
    allowed = limits(BUDGET, np.ones(N, int), ["a"] * N)
    found = {name: choose(pool, validation_MP, allowed) for name, choose in BY_COSINES.items()}
    return numbers(found | {"less": less(pool, validation_MP, [n % 3 for n in range(M)], allowed)})


def numbers(selections: dict[str, Selection]) -> dict[str, list[int]]:
    return {name: [pick.row for pick in own.picks] for name, own in selections.items()}


def chosen(pool: Rows, validation_MP: np.ndarray, every: bool) -> dict[str, list[int]]:
    return walks(pool, validation_MP, every) | rivals(pool, validation_MP)


def rows_of(folder: Path, dtype: str) -> Rows:
    """The pool as a file that processes share."""
    values_NP = np.memmap(folder / f"{dtype}.bin", DTYPES[dtype], "r", shape=(N, P))
    return Rows(values_NP, np.load(folder / "scales.npy") if dtype == "int8" else None)


def main(folder: Path) -> None:
    """What each process does: four of them walk every way, two on rows of fewer bits."""
    validation_MP, (_, processes) = np.load(folder / "validation.npy"), process_share()
    found = {
        dtype: chosen(rows_of(folder, dtype), validation_MP, every=processes == 4)
        for dtype in DTYPES_OF[processes]
    }
    if is_first():
        results = {"processes": processes, "devices": jax.device_count(), "found": found}
        (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("pool")
    common_P = rng.normal(size=P)
    features_NP = (rng.normal(size=(N, P)) + 0.5 * common_P).astype(np.float32)
    features_NP[rng.integers(N, size=40)] = features_NP[rng.integers(N, size=40)]
    np.save(folder / "validation.npy", (rng.normal(size=(M, P)) + common_P).astype(np.float32))
    for dtype in DTYPES:
        values_NP, scales_N = quantised(features_NP, dtype)
        values_NP.tofile(folder / f"{dtype}.bin")
        if scales_N is not None:
            np.save(folder / "scales.npy", scales_N)
    return folder


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_choose_together_what_one_chooses(pool, processes, devices):
    results = run_in_processes(__file__, pool, processes, devices)
    assert (results["processes"], results["devices"]) == (processes, processes * devices)
    validation_MP = np.load(pool / "validation.npy")
    for dtype in DTYPES_OF[processes]:
        on_disk = rows_of(pool, dtype)
        in_memory = Rows(np.array(on_disk.values_NP), on_disk.scales_N)
        expected = chosen(in_memory, validation_MP, every=processes == 4)
        assert results["found"][dtype] == expected
        filled = ("together", "less", *BY_COSINES)
        assert all(len(expected[name]) == BUDGET.budget for name in filled)
