"""Selection from matrices of one's own: the paper's walk, its files, and every refusal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from configs import default, paper
from g2is_jax.features.exchange import import_features
from g2is_jax.features.store import StoreConfig
from g2is_jax.pipeline import own_features
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT, write_rows
from tests.support.small import row as good_row
from tests.support.small_job import changed

N, M, P = 60, 7, 24


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """Pool rows around three directions, of very different lengths, and validation rows."""
    rng = np.random.default_rng(3)
    centres_3P = rng.normal(size=(3, P))
    pool_NP = centres_3P[rng.integers(3, size=N)] + rng.normal(size=(N, P))
    pool_NP *= 10.0 ** rng.uniform(-6, 3, size=(N, 1))
    validation_MP = centres_3P[rng.integers(3, size=M)] + rng.normal(size=(M, P))
    return pool_NP.astype(np.float32), validation_MP.astype(np.float32)


@pytest.fixture
def given(tmp_path) -> dict[str, epath.Path]:
    """Two good matrices and the pool they are of."""
    pool_NP, validation_MP = matrices()
    np.save(tmp_path / "F.npy", pool_NP)
    np.save(tmp_path / "V.npy", validation_MP)
    rows = [good_row(n, source="even" if n % 2 == 0 else "odd") for n in range(N)]
    write_rows(tmp_path / "pool.jsonl", rows)
    names = {"train_features": "F.npy", "validation_features": "V.npy", "pool": "pool.jsonl"}
    return {name: epath.Path(tmp_path / file) for name, file in names.items()}


def config(**fields):
    return changed(paper.get_config(), **({"selection__budget": 0.25} | fields))


def picks(place) -> list[dict]:
    return [json.loads(line) for line in (place / "selection.jsonl").read_text().splitlines()]


def walk_of_the_paper(pool_NP, validation_MP, budget: int) -> list[tuple[int, int, str]]:
    """(row, component, reason), written down plainly from the rules."""
    units = pool_NP.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    centred = validation_MP.astype(np.float64) - validation_MP.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    explained = lengths**2 / (lengths**2).sum()
    kept = int((np.cumsum(explained) <= 0.5).sum()) + 1
    shares = budget * explained[:kept] / explained[:kept].sum()
    budgets = np.floor(shares).astype(int)
    for component in np.argsort(-(shares - budgets))[: budget - budgets.sum()]:
        budgets[component] += 1
    used, chosen = set(), []
    for component in range(kept):
        core = directions[component] * np.sign(
            directions[component][np.abs(directions[component]).argmax()]
        )
        walk = []
        while len(walk) < budgets[component]:
            free = [j for j in range(len(units)) if j not in used]
            if not walk:
                best, reason = max(free, key=lambda j: units[j] @ core), "anchor"
            else:
                total = units[walk].sum(axis=0)
                before = abs(total @ core) / np.linalg.norm(total)
                valid = [
                    j
                    for j in free
                    if all(units[j] @ units[s] >= 0 for s in walk)
                    and abs((total + units[j]) @ core) / np.linalg.norm(total + units[j])
                    >= 0.8 * before
                ]
                if not valid:
                    break
                best, reason = max(valid, key=lambda j: units[j] @ units[walk[-1]]), "neighbour"
            used.add(best)
            walk.append(best)
            chosen.append((best, component, reason))
    return chosen


def test_the_paper_s_walk_without_a_model(given, tmp_path, capsys):
    out = epath.Path(tmp_path / "out")
    files = {name: given[name] for name in ("train_features", "validation_features")}
    assert own_features.run(config(), out, **files) == [out]
    expected = walk_of_the_paper(*matrices(), budget=15)
    assert 6 < len(expected) <= 15
    found = picks(out)
    assert [(p["row"], p["component"], p["reason"]) for p in found] == expected
    assert [p["order"] for p in found] == list(range(len(found)))
    assert all(isinstance(p["score"], float) for p in found)
    assert not (out / "selected.jsonl").exists()
    assert "selection.jsonl" in capsys.readouterr().out


def test_chosen_lines_of_the_pool(given, tmp_path):
    out = epath.Path(tmp_path / "out")
    own_features.run(config(), out, **given)
    lines = given["pool"].read_text().splitlines()
    found = picks(out)
    assert (out / "selected.jsonl").read_text().splitlines() == [lines[p["row"]] for p in found]
    assert [(p["id"], p["source"]) for p in found] == [
        (f"row-{p['row']}", "odd" if p["row"] % 2 else "even") for p in found
    ]
    capped = config(selection__source_cap=0.2)
    own_features.run(capped, epath.Path(tmp_path / "capped"), **given)
    sources = [p["source"] for p in picks(tmp_path / "capped")]
    assert max(sources.count("odd"), sources.count("even")) <= 3


def test_the_same_rows_in_other_files(given, tmp_path):
    pool_NP, validation_MP = matrices()
    np.save(tmp_path / "F64.npy", pool_NP.astype(np.float64))
    np.save(tmp_path / "Ffortran.npy", np.asfortranarray(pool_NP))
    save_file({"anything": pool_NP}, tmp_path / "F.safetensors")
    save_file({"features": validation_MP}, tmp_path / "V.safetensors")
    store = epath.Path(tmp_path / "store")
    import_features(given["train_features"], store, StoreConfig("float32", 7))
    own_features.run(config(), epath.Path(tmp_path / "npy"), **given)
    expected = [p["row"] for p in picks(tmp_path / "npy")]
    for name in ("F64.npy", "Ffortran.npy", "F.safetensors", "store"):
        for validation in ("V.npy", "V.safetensors"):
            files = {
                "train_features": epath.Path(tmp_path / name),
                "validation_features": epath.Path(tmp_path / validation),
            }
            own_features.run(config(), out := epath.Path(tmp_path / name[:3] / validation), **files)
            assert [p["row"] for p in picks(out)] == expected, (name, validation)


def test_norms_beside_unit_rows_are_the_lengths_of_validation_rows(given, tmp_path):
    """Knowledge depends on them; rows that the file marks are left out on either side."""
    pool_NP, validation_MP = matrices()
    validation_MP = validation_MP * np.linspace(0.1, 30, M, dtype=np.float32)[:, None]
    norms_M = np.linalg.norm(validation_MP, axis=1)
    odd_MP = np.concatenate([validation_MP / norms_M[:, None], np.full((1, P), np.nan)])
    np.save(tmp_path / "V.npy", validation_MP)
    own_features.run(config(), epath.Path(tmp_path / "plain"), **given)
    expected = [p["row"] for p in picks(tmp_path / "plain")]
    barred_N = np.isin(np.arange(N), expected[:2])
    save_file(
        {
            "features": odd_MP.astype(np.float32),
            "norms": np.append(norms_M, 0).astype(np.float32),
            "finite": np.arange(M + 1) < M,
        },
        tmp_path / "V.safetensors",
    )
    given["validation_features"] = epath.Path(tmp_path / "V.safetensors")
    own_features.run(config(), epath.Path(tmp_path / "norms"), **given)
    assert [p["row"] for p in picks(tmp_path / "norms")] == expected
    tensors = {"features": pool_NP.astype(ml_dtypes.bfloat16), "finite": ~barred_N}
    save_file(tensors, tmp_path / "F.safetensors")
    given["train_features"] = epath.Path(tmp_path / "F.safetensors")
    greedy = {"selection__budget": float(N - 2), "selection__unit": "rows"}
    relaxed = config(**greedy, walk__on_exhausted="relax")
    own_features.run(relaxed, epath.Path(tmp_path / "barred"), **given)
    rows = sorted(p["row"] for p in picks(tmp_path / "barred"))
    assert rows == np.flatnonzero(~barred_N).tolist()


def test_budgets_in_rows_and_tokens(given, tmp_path):
    own_features.run(
        config(selection__unit="rows", selection__budget=4.0),
        out := epath.Path(tmp_path / "r"),
        **given,
    )
    assert len(picks(out)) <= 4
    tokens_N = 1 + np.arange(N) % 5
    save_file({"features": matrices()[0], "tokens": tokens_N}, tmp_path / "F.safetensors")
    given["train_features"] = epath.Path(tmp_path / "F.safetensors")
    relaxed = {"selection__unit": "tokens", "selection__budget": 30.0}
    own_features.run(
        config(**relaxed, walk__on_exhausted="relax"), out := epath.Path(tmp_path / "t"), **given
    )
    assert 26 <= sum(tokens_N[p["row"]] for p in picks(out)) <= 30


def test_several_methods_have_a_folder_each(given, tmp_path):
    out = epath.Path(tmp_path / "out")
    own_features.run(config(), out, **given)
    several = config(run__methods="less,pursuit,g2is", run__replace=True)
    places = own_features.run(several, out, **given)
    assert places == [out / "less", out / "pursuit", out / "g2is"]
    assert all(
        len(picks(place)) == len((place / "selected.jsonl").read_text().splitlines())
        for place in places
    )
    assert not (out / "selection.jsonl").exists()
    units = matrices()[0] / np.linalg.norm(matrices()[0], axis=1, keepdims=True)
    own = matrices()[1] / np.linalg.norm(matrices()[1], axis=1, keepdims=True)
    best = np.argsort(-(units @ own.mean(axis=0)))[:15]
    assert [p["row"] for p in picks(out / "less")] == best.tolist()


def test_the_folder_is_that_of_one_command(given, tmp_path):
    out = epath.Path(tmp_path / "out")
    own_features.run(config(), out, **given)
    before = (out / "selection.jsonl").read_bytes()
    own_features.run(config(), out, **given)
    assert len(list((out / "stages").iterdir())) == 1
    with pytest.raises(InputError, match=r"started with another config: walk\.delta is 0\.7"):
        own_features.run(config(walk__delta=0.7), out, **given)
    np.save(tmp_path / "F.npy", 2 * matrices()[0])
    with pytest.raises(InputError, match=r"started with another config: own\.train_features is"):
        own_features.run(config(), out, **given)
    assert (out / "selection.jsonl").read_bytes() == before
    other = config(selection__budget=0.1, run__replace=True)
    del given["pool"]
    own_features.run(other, out, **given)
    assert len(picks(out)) <= 6
    assert not (out / "selected.jsonl").exists()  # of the other selection


def test_a_refused_command_leaves_nothing(given, tmp_path):
    np.save(tmp_path / "V.npy", np.ones((3, P + 1), np.float32))
    with pytest.raises(InputError):
        own_features.run(config(), epath.Path(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


# What is refused. The message leads with the file and ends with a way out.


def with_row(value):
    pool_NP, _ = matrices()
    pool_NP[[11, 40], 3] = value
    return pool_NP


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.ones(5, np.float32), r"F\.npy: its shape is \(5,\); expected \(rows, values\)"),
        (np.ones((0, 4), np.float32), r"F\.npy: its shape is \(0, 4\)"),
        (np.array([[{}]], object), r"F\.npy: not a whole \.npy file of numbers"),
        (np.array([["a"]]), r"F\.npy: of dtype <U1; save it as float32"),
        (np.ones((4, 4), bool), r"F\.npy: of dtype bool"),
        (with_row(np.nan), r"F\.npy: row 11 is not finite \(2 of 60 rows are not\); mend"),
        (with_row(np.inf), r"F\.npy: row 11 is not finite"),
        (with_row(1.0).astype(np.float64) * 1e300, r"F\.npy: row 0 is not finite"),
        (matrices()[0][:, :20], r"F\.npy is of shape \(60, 20\), .*V\.npy of \(7, 24\); both must"),
        (matrices()[0][:59], r"F\.npy has 59 rows, .*pool\.jsonl has 60; give one feature row"),
    ],
)
def test_pool_features_that_do_not_fit(given, tmp_path, array, told):
    np.save(tmp_path / "F.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=told) as caught:
        own_features.run(config(), epath.Path(tmp_path / "out"), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.npy", r"gone\.npy: no such file"),
        ("F.csv", r"F\.csv: its suffix is unknown; known are \.npy, \.safetensors, \.pt"),
        ("folder", r"folder: no store\.json here; give a store, or a file"),
        ("cut.npy", r"cut\.npy: not a whole \.npy file"),
        ("marked.safetensors", r"marked\.safetensors: no row is finite"),
    ],
)
def test_validation_features_that_are_none(given, tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "F.csv").write_text("1,2")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "V.npy").read_bytes()[:150])
    save_file(
        {"features": matrices()[1], "finite": np.zeros(M, bool)}, tmp_path / "marked.safetensors"
    )
    given["validation_features"] = epath.Path(tmp_path / name)
    with pytest.raises(InputError, match=told):
        own_features.run(config(), epath.Path(tmp_path / "out"), **given)


@pytest.mark.parametrize(
    ("fields", "pool", "told"),
    [
        ({"selection__source_cap": 0.5}, False, r"selection\.source_cap = 0\.5: .*--pool"),
        ({"selection__unit": "tokens", "selection__budget": 5.0}, True, r"unit = tokens: .*tokens"),
        ({"selection__unit": "rows", "selection__budget": 61.0}, True, "the pool holds 60"),
        ({"run__methods": "random,g2is"}, True, "random cannot choose by features alone"),
        ({"run__methods": "bm25,rds_plus"}, True, r"bm25, rds_plus cannot .*--config\.run\.meth"),
        ({"run__methods": "oracle"}, True, "'oracle' is unknown"),
        ({"graph__kind": "knn"}, True, "100 asked, a pool of 60 rows has at most 59"),
        ({"knowledge__keep": "count", "knowledge__keep_value": 9.0}, True, "9 components asked"),
        ({"walk__delta": 2.0}, True, r"^walk\.delta: 2\.0 must be"),
    ],
)
def test_settings_that_do_not_go_with_own_features(given, tmp_path, fields, pool, told):
    if not pool:
        del given["pool"]
    with pytest.raises(InputError, match=told):
        own_features.run(config(**fields), epath.Path(tmp_path / "out"), **given)
    assert not (tmp_path / "out" / "selection.jsonl").exists()


def test_row_numbers_of_the_file_lead_to_the_pool_s_lines(given, tmp_path):
    """Features of every third row alone, in another order than the pool's."""
    rows_N = np.ascontiguousarray(np.arange(N)[::-3])
    save_file({"features": matrices()[0][rows_N], "rows": rows_N}, tmp_path / "F.safetensors")
    given["train_features"] = epath.Path(tmp_path / "F.safetensors")
    own_features.run(config(), out := epath.Path(tmp_path / "out"), **given)
    found = picks(out)
    lines = given["pool"].read_text().splitlines()
    assert len(found) > 2
    assert [p["row"] for p in found] == [rows_N[p["position"]] for p in found]
    assert [p["id"] for p in found] == [f"row-{p['row']}" for p in found]
    assert (out / "selected.jsonl").read_text().splitlines() == [lines[p["row"]] for p in found]


def test_a_bad_row_of_the_pool_moves_no_other(given, tmp_path, capsys):
    """Rows are numbered by the file; without numbers, features are of its good rows in order."""
    lines = given["pool"].read_text().splitlines()
    lines.insert(5, '{"prompt": "a", "completion": ""}')
    given["pool"].write_text("\n".join(lines))
    own_features.run(config(), out := epath.Path(tmp_path / "out"), **given)
    found = picks(out)
    assert "1 bad rows dropped" in capsys.readouterr().out
    assert [p["row"] for p in found] == [p["position"] + (p["position"] >= 5) for p in found]
    assert (out / "selected.jsonl").read_text().splitlines() == [lines[p["row"]] for p in found]
    numbers_N = np.delete(np.arange(N + 1), 5)
    save_file({"features": matrices()[0], "rows": numbers_N}, tmp_path / "F.safetensors")
    given["train_features"] = epath.Path(tmp_path / "F.safetensors")
    own_features.run(config(), again := epath.Path(tmp_path / "again"), **given)
    assert [(p["row"], p["id"]) for p in picks(again)] == [(p["row"], p["id"]) for p in found]
    save_file({"features": matrices()[0], "rows": np.arange(N)}, tmp_path / "F.safetensors")
    with pytest.raises(InputError, match=r"pool\.jsonl has 60 good ones and no row 5 among them"):
        own_features.run(config(), epath.Path(tmp_path / "bad"), **given)
    stop = config(data__bad_rows="stop")
    with pytest.raises(InputError, match=r'pool\.jsonl:6: "completion" is empty'):
        own_features.run(stop, epath.Path(tmp_path / "stop"), **given)


def test_rows_that_the_pool_has_not(given, tmp_path):
    save_file({"features": matrices()[0], "rows": np.arange(1, N + 1)}, tmp_path / "F.safetensors")
    given["train_features"] = epath.Path(tmp_path / "F.safetensors")
    with pytest.raises(InputError, match=r"numbers its rows from 1 to 60, .*pool\.jsonl has 60"):
        own_features.run(config(), epath.Path(tmp_path / "out"), **given)


def test_default_methods_are_named_with_a_way_out(given, tmp_path):
    given_default = default.get_config()
    with pytest.raises(
        InputError, match=r"set --config\.run\.methods=less,less_rr,g2is_paper,g2is,"
    ):
        own_features.run(given_default, epath.Path(tmp_path / "out"), **given)


COMMAND = """
import runpy, sys
sys.argv = ["select_subset", *sys.argv[1:]]
try:
    runpy.run_module("experiments.select_subset", run_name="__main__")
except SystemExit as ending:
    late = {"flax", "optax", "orbax", "transformers", "tokenizers", "matplotlib"} & set(sys.modules)
    print("status", ending.code, "imported", sorted(late))
"""


@pytest.mark.parametrize(
    ("left_out", "status", "told"),
    [((), "None", ""), (("validation_features",), "2", "--validation_features is missing; own")],
)
def test_the_command_needs_no_model_libraries(given, tmp_path, left_out, status, told):
    command = [f"--{name}={path}" for name, path in given.items() if name not in left_out]
    command += ["--config=configs/paper.py", f"--workdir={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *command, "--config.selection.budget=0.25"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == f"status {status} imported []", done
    assert told in done.stderr
    assert Path(tmp_path / "out" / "selection.jsonl").exists() == (status == "None")
