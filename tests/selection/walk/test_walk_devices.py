"""Eight devices choose and find what one does; they do it in a process of their own."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from test_walk_parity import TOO_CLOSE, transcribed
from test_walk_strategies import problem_of, same_trace

from g2is_jax.features.rows import Rows, quantised
from g2is_jax.selection.budget import Pick
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.walk import select
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.eight_devices import run_on_eight_devices
from tests.support.walk_instances import PAPER
from tests.support.without_torch import hide_torch

DEVICES = {"float32 side by side": 48, "bfloat16 side by side": 24, "int8, 2 neighbours": 24}
TOGETHER_SEEDS, FRONT = range(7000, 7012), (9, 4)  # small, so that the walk leaves it


def main(folder: Path) -> None:
    """Writes the choices of eight devices in each case, and the neighbours they find."""
    from g2is_jax.runs.mesh import data_mesh

    jax.config.update("jax_numpy_rank_promotion", "raise")
    mesh = data_mesh()
    found: dict = {"devices": mesh.size}
    for case, count in DEVICES.items():
        found[case] = []
        for seed in range(7000, 7000 + count):
            problem, slots = problem_of(case, seed)
            arguments = problem.rows, problem.core, problem.limits, PAPER, problem.near
            selection = gradient_walk(*arguments, mesh=mesh, slots=slots)
            ends = [component["ended"] for component in selection.summary["components"]]
            found[case].append({"picks": [vars(pick) for pick in selection.picks], "ends": ends})
    select.FRONT, select.WAITING = FRONT
    found["together"] = [
        [vars(pick) for pick in gradient_walk(*together(seed), mesh=mesh).picks]
        for seed in TOGETHER_SEEDS
    ]
    for dtype in ("float32", "int8"):
        indices_NE, cosines_NE = neighbours(sample_rows(dtype), 9, mesh)
        found[f"{dtype} neighbours"] = [indices_NE.tolist(), cosines_NE.tolist()]
    (folder / "results.json").write_text(json.dumps(found))


def together(seed: int):
    """One walk for all directions, with the default's rules."""
    problem, _ = problem_of("float32 side by side", seed)
    rules = replace(PAPER, order="together", fairness=4.0, pull=1.0, conflict_worth=0.8)
    rules = replace(rules, on_exhausted="relax")
    return problem.rows, problem.core, problem.limits, rules


def sample_rows(dtype: str):
    rows_NP = np.random.default_rng(0).normal(size=(53, 5)).astype(np.float32)
    rows_NP[[7, 40, 52]] = rows_NP[3]
    return Rows(*quantised(rows_NP, dtype))


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory) -> dict:
    """The dictionary that `main` writes."""
    folder = tmp_path_factory.mktemp("devices")
    return run_on_eight_devices(__file__, folder)


@pytest.mark.parametrize("case", DEVICES)
def test_eight_devices_choose_the_same(case, on_devices):
    """31 rows do not divide by eight: those that are added are never chosen."""
    assert on_devices["devices"] == 8
    compared = 0
    for number, found in enumerate(on_devices[case]):
        problem, slots = problem_of(case, 7000 + number)
        picks, ends, margin = transcribed(problem, PAPER)
        if margin < TOO_CLOSE:
            continue
        single = gradient_walk(
            problem.rows, problem.core, problem.limits, PAPER, problem.near, slots=slots
        )
        assert found["ends"] == ends == [c["ended"] for c in single.summary["components"]]
        assert [pick["row"] for pick in found["picks"]] == [pick["row"] for pick in picks]
        same_trace([Pick(**pick) for pick in found["picks"]], single.picks, number)
        compared += 1
    assert compared >= 0.9 * DEVICES[case]


def test_eight_devices_walk_together(on_devices):
    compared = 0
    for seed, found in zip(TOGETHER_SEEDS, on_devices["together"], strict=True):
        single = gradient_walk(*together(seed))
        if (single.summary["closest_decision"] or 1) > TOO_CLOSE:
            same_trace([Pick(**pick) for pick in found], single.picks, seed)
            compared += len(found)
    assert compared > 3 * len(TOGETHER_SEEDS)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_eight_devices_find_the_same_neighbours(dtype, on_devices):
    """Copies included, of which the lower ones come first."""
    indices_NE, cosines_NE = neighbours(sample_rows(dtype), 9)
    assert on_devices[f"{dtype} neighbours"][0] == indices_NE.tolist()
    np.testing.assert_allclose(on_devices[f"{dtype} neighbours"][1], cosines_NE, atol=1e-6)
    assert indices_NE[3, :3].tolist() == [7, 40, 52]


if __name__ == "__main__":
    hide_torch()
    main(Path(sys.argv[1]))
