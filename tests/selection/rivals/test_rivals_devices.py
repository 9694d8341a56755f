"""Rows that lie on eight devices are chosen as those in memory are; in a process of their own."""

import json
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_rivals import SELECTORS

from g2is_jax.features.rows import Rows, quantised
from g2is_jax.selection.budget import BudgetConfig, Limits, limits
from tests.support.eight_devices import run_on_eight_devices
from tests.support.rival_instances import varied

DTYPES = ("float32", "bfloat16", "int8")
SEEDS = (0, 3, 6)
pytestmark = pytest.mark.usefixtures("_small_blocks")


def main(folder: Path) -> None:
    """Writes what each selector picks of rows that eight devices share."""
    from g2is_jax.runs.mesh import data_mesh

    sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
    found: dict = {"devices": sharding.mesh.size}
    for name, select in SELECTORS.items():
        for dtype in DTYPES:
            picks = []
            for seed in SEEDS:
                pool, validation, made = problem_of(seed, dtype)
                shared = Rows(jax.device_put(pool.values_NP, sharding), pool.scales_N)
                picks.append([vars(pick) for pick in select(shared, validation, made).picks])
            found[f"{name} {dtype}"] = picks
    (folder / "results.json").write_text(json.dumps(found))


def problem_of(seed: int, dtype: str) -> tuple[Rows, Rows, Limits]:
    """As many rows as eight devices can share evenly."""
    features_NP, validation_MP, made = varied(seed)
    count = len(features_NP) // 8 * 8
    budget = BudgetConfig(count // 2, "rows", 1.0)
    cut = limits(budget, made.costs_N[:count], made.sources_N[:count])
    pool = Rows(*quantised(features_NP[:count], dtype))
    return pool, Rows(*quantised(validation_MP, dtype)), cut


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory) -> dict:
    """The dictionary that `main` writes."""
    return run_on_eight_devices(__file__, tmp_path_factory.mktemp("devices"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SELECTORS)
def test_eight_devices_choose_the_same(name, dtype, on_devices):
    assert on_devices["devices"] == 8
    for seed, found in zip(SEEDS, on_devices[f"{name} {dtype}"], strict=True):
        picks = SELECTORS[name](*problem_of(seed, dtype)).picks
        expected = [(pick.row, pick.component) for pick in picks]
        assert [(pick["row"], pick["component"]) for pick in found] == expected
        assert len(found) >= 4


if __name__ == "__main__":
    main(Path(sys.argv[1]))
