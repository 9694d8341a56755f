"""The table of a sweep: means over seeds, overlaps seed by seed, names that could break it."""

import json
from statistics import fmean

import pytest
from etils import epath

from g2is_jax.report.sweep_table import write_sweep

SOURCES = ["a|b", "a|b", "c", "c", "c"]
SWEEP = {
    "sweep": "own",
    "seconds": 1.5,
    "settings": [
        {"setting": "x=1", "stages": {"run": {"selection": 2}, "reused": {"warmup": 1}}},
        {"setting": "x=2", "stages": {"run": {}, "reused": {"selection": 2, "warmup": 1}}},
    ],
}


def entry(setting: str, seed: int, rows: list[int], **more) -> dict:
    found = {"method": "g2is", "setting": setting, "target": "t", "seed": seed, "rows": rows}
    return found | {"tokens": 10 * len(rows), "seconds": seed + 1.0, "folder": f"f{seed}"} | more


@pytest.fixture
def entries() -> list[dict]:
    rows = {("x=1", 0): [0, 1], ("x=1", 1): [2], ("x=2", 0): [1, 2], ("x=2", 1): [2]}
    return [entry(*which, chosen) for which, chosen in rows.items()]


def test_what_is_written(entries, tmp_path):
    written, table = write_sweep(SWEEP, entries, [], SOURCES, epath.Path(tmp_path / "own"))
    assert json.loads((tmp_path / "own" / "table.json").read_text()) == written
    assert (tmp_path / "own" / "table.md").read_text() == table
    found = written["methods"]["g2is"]["t"]
    mean = (1 / 3 + 1) / 2
    assert found["overlap"] == [[1, pytest.approx(mean)], [pytest.approx(mean), 1]]
    first, second = found["settings"]
    assert (first["setting"], first["rows"], first["tokens"], first["seconds"]) == (
        "x=1",
        1.5,
        15,
        1.5,
    )
    assert first["shares"] == {"c": 0.5, "a|b": 0.5}
    assert second["shares"] == {"c": 0.75, "a|b": 0.25}
    assert second["overlap_with_first"] == pytest.approx(mean)
    assert second["folders"] == ["f0", "f1"]
    lines = table.splitlines()
    assert "| setting | rows | tokens | seconds | overlap with the first | c | a\\|b |" in lines
    assert "| x=2 | 2 | 15 | 1.5 | 0.67 | 75.0% | 25.0% |" in lines
    assert "| x=1 | 2 selection | 1 warmup |" in lines
    assert "| x=2 | none | 2 selection, 1 warmup |" in lines
    assert lines[-1] == "2 settings in 1.5 s of this run, which made these stages: 2 selection."


def test_a_name_is_no_formula(entries, tmp_path):
    odd = [entry | {"target": "$x^$"} for entry in entries]
    write_sweep(SWEEP, odd, [], SOURCES, epath.Path(tmp_path))
    assert (tmp_path / "plot.png").exists()


def test_metrics_are_means_and_are_plotted(entries, tmp_path):
    scored = [
        entry | {"metrics": {"answer_loss": n, "exact_match": 0}} for n, entry in enumerate(entries)
    ]
    written, table = write_sweep(SWEEP, scored, [], SOURCES, epath.Path(tmp_path / "scored"))
    write_sweep(SWEEP, entries, [], SOURCES, epath.Path(tmp_path / "bare"))
    settings = written["methods"]["g2is"]["t"]["settings"]
    assert [of["metrics"]["answer_loss"] for of in settings] == [0.5, 2.5]
    assert "| x=2 | 2 | 15 | 1.5 | 0.67 | 2.500 | 0.000 | 75.0% | 25.0% |" in table.splitlines()
    sizes = [(tmp_path / name / "plot.png").stat().st_size for name in ("scored", "bare")]
    assert sizes[0] > sizes[1] > 1000


def test_a_metric_that_only_some_settings_have(entries, tmp_path):
    """The others, as those without replies, have an empty cell, and no plot shows it."""
    scored = [
        entry | {"metrics": {"answer_loss": 1.5} | ({"exact_match": 0.5} if n > 1 else {})}
        for n, entry in enumerate(entries)
    ]
    _, table = write_sweep(SWEEP, scored, [], SOURCES, epath.Path(tmp_path))
    lines = [line for line in table.splitlines() if line.startswith("| x=")][:2]
    assert "| 1.500 |  |" in lines[0]
    assert "| 1.500 | 0.500 |" in lines[1]


def test_a_setting_without_a_seed_in_common_has_no_overlap(entries, tmp_path):
    written, table = write_sweep(SWEEP, [entries[0], entries[3]], [], SOURCES, epath.Path(tmp_path))
    assert written["methods"]["g2is"]["t"]["settings"][1]["overlap_with_first"] is None
    assert "| x=2 | 1 | 10 | 2.0 |  | 100.0% | 0.0% |" in table.splitlines()


def test_settings_against_methods_that_no_setting_changes(entries, tmp_path):
    """Paired by seed; the best of all methods on a target has gone the whole way."""
    losses = {("x=1", 0): 2.0, ("x=1", 1): 4.0, ("x=2", 0): 1.0, ("x=2", 1): 1.0}
    scored = [
        one | {"target": target, "metrics": {"answer_loss": losses[one["setting"], one["seed"]]}}
        for one in entries
        for target in ("t", "u")
    ]
    rivals = [
        {"method": method, "target": target, "seed": seed, "metrics": {"answer_loss": loss + seed}}
        for method, target, loss in (("random", "t", 5.0), ("random", "u", 4.0), ("other", "u", 0))
        for seed in (0, 1)
    ]
    written, table = write_sweep(SWEEP, scored, rivals, SOURCES, epath.Path(tmp_path))
    found = {(d["subject"], d["rival"], d["target"]): d for d in written["against"]}
    assert found["g2is, x=1", "random", "t"]["mean"] == 2.5  # 5 - 2 and 6 - 4
    assert found["g2is, x=1", "random", "t"]["better"] == 2
    assert found["g2is, x=2", "other", "u"]["mean"] == -0.5
    assert ("g2is, x=1", "other", "t") not in found
    random_t, random_u = 5.5, 4.5
    assert written["ways"]["g2is, x=1"] == pytest.approx(
        (fmean([(random_t - 3) / (random_t - 1), (random_u - 3) / (random_u - 0.5)]), 1.5 / 4)
    )
    assert written["ways"]["other"] == (1, 1)
    assert "### Better than other by" in table.splitlines()
    assert "| g2is, x=1 | +2.500 (-3.853..+8.853) | +1.500 (-4.853..+7.853) |" in table
