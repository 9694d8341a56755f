"""Every benchmark at its smallest size: it ends well, and its result and table are whole."""

import dataclasses
import importlib
import json
import math
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import bench
from experiments.bench import (
    devices,
    gradients,
    graph,
    load,
    models,
    packing,
    projection,
    read_rows,
)
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

# name -> the flags of its smallest run, the keys of its result beside those of every result, and a
# wrong value of a flag
SMALLEST: dict[str, tuple[dict, set[str], dict]] = {
    "against_peft": ({"dtype": "float32", "rank": 3, "rows": 2, "tokens": 9, "width": 64,
                      "repeats": 1},
                     {"model", "model_settings", "parameters", "adapter_values"},
                     {"tokens": 1, "dtype": "int8", "peft_adapter": "float16", "model": "x=1"}),
    "depth": ({"layers": "1", "against": 1, "hidden": 16, "rank": 2, "rows": 1, "tokens": 4,
               "width": 64, "repeats": 1}, set(),
              {"layers": "2,8,x", "against": 5, "hidden": 12, "model": "remat=1"}),
    "devices": ({"layouts": "1x1,1x2"}, {"layouts"}, {"layouts": "1x1,ax2"}),
    "generate": ({"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 64, "batch": 2,
                  "prompt_tokens": 5, "new_tokens": 4, "repeats": 2}, {"models"},
                 {"hidden": 258, "dtype": "int8"}),
    "gradients": ({"parts": "memory,less", "batch": 2, "tokens": 9, "width": 64,
                   "rank": 3, "less_rows": 3, "repeats": 2},
                  {"model", "parameters", "gradient_values"}, {"tokens": 1}),
    "graph": ({"rows": 40, "width": 12, "neighbours": 5, "repeats": 2}, set(),
              {"neighbours": 8000}),
    "knowledge": ({"rows": 24, "width": 60, "narrow": 8, "repeats": 2}, set(), {"keep": 1.0}),
    "layers": ({"model": "random", "rank": 2, "sides": "2,3", "width": 64, "seeds": 2, "rows": 3,
                "tokens": 9, "repeats": 1}, set(), {"tokens": 0}),
    "load": ({"layers": 1, "repeats": 1}, {"files", "readers", "runs"}, {}),
    "packing": ({"parts": "stories", "rank": 2, "rows": 12, "tokens": 24, "batch": 6,
                 "microbatch": 96, "repeats": 2}, set(), {"tokens": 1}),
    "padding": ({"tokens": 64, "microbatch": 512, "batches": "8", "rows": 50}, set(),
                {"batches": "8,0"}),
    "projection": ({"width": 64, "batch": 4, "values": 100, "sketch_values": 130, "sign_blocks": 1,
                    "rows": 5, "rank": 2, "quality_width": 32, "seeds": 2, "repeats": 2}, set(),
                   {"width": 100}),
    "read_rows": ({"rows": 50, "max_length": 64, "kinds": "lines,gzip,parquet"}, {"files"},
                  {"rows": 0, "kinds": "lines,x"}),
    "rivals": ({"rows": 60, "width": 16, "validation": 3, "budget": 9, "repeats": 2}, set(),
               {"case": "x", "budget": 0}),
    "scale": ({"rows": 300, "width": 32, "budget": 0.05, "dtype": "bfloat16",
               "methods": "g2is,less", "memory": "memory,disk"}, {"common", "memory", "disk"},
              {"case": "x"}),
    "scaling": ({"batch": 1, "tokens": 16, "rows": 16, "width": 32, "chosen": 3, "devices": 2,
                 "processes": 2, "repeats": 1}, set(), {"chosen": 0}),
    "store": ({"parts": "speed,error,hidden", "width": 16, "rows": 10, "chunk_rows": 4, "chunks": 2,
               "seconds": 0.01, "writer_cores": 0, "repeats": 1}, set(), {"chunks": 1}),
    "walk": ({"parts": "graph,memory", "rows": 120, "width": 16, "components": 3,
              "budget": 0.2, "repeats": 2}, set(), {"budget": 0.0}),
}  # fmt: skip
IN_PROCESSES_OF_ITS_OWN = ("scaling",)  # needs a jax that has not computed yet
NEED_CHECKPOINT = ("against_peft",)
NEED_TORCH = ("against_peft", "generate", "gradients")


def of(name: str):
    return importlib.import_module(f"experiments.bench.{name}")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Replaces what takes long at any setting: large models, whole runs, many compilations."""
    raw = models.RANDOM | {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34,
                           "head_dim": 6, "num_hidden_layers": 1, "num_attention_heads": 4,
                           "num_key_value_heads": 2}  # fmt: skip
    monkeypatch.setattr(models, "RANDOM", raw)
    monkeypatch.setattr(gradients, "read_subject", lambda name, *rest: models.read_subject(
        "random", *rest))  # fmt: skip
    monkeypatch.setattr(packing, "STORIES", packing.STORIES | {"num_hidden_layers": 1})
    monkeypatch.setattr(projection, "BATCHES", (4,))
    monkeypatch.setattr(projection, "HASHED_ROWS", 64)
    small_layer = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24,
                   "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    monkeypatch.setattr(load, "FIELDS", load.FIELDS | small_layer)
    monkeypatch.setattr(load, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))
    monkeypatch.setattr(read_rows, "ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n))
    monkeypatch.setattr(graph, "STEPS", (0.5, 1.0))
    monkeypatch.setattr(devices, "run_all", lambda flags, processes, devices: None)
    monkeypatch.setattr(devices, "differences", lambda folder, expected: {
        **dict.fromkeys(("features", "adapters", "largest", "losses"), 0.0),
        "selections": [0, 1], "replies": [0, 1]})  # fmt: skip


def test_every_benchmark_is_here():
    names = {module.name for module in pkgutil.iter_modules(bench.__path__)}
    assert SMALLEST.keys() == {name for name in names if hasattr(of(name), "BenchConfig")}


@pytest.mark.parametrize("name", [n for n in SMALLEST if n not in IN_PROCESSES_OF_ITS_OWN])
def test_it_ends_well(name, request):
    if name in NEED_TORCH:
        request.getfixturevalue("torch")
    flags, keys, _ = SMALLEST[name]
    if name in NEED_CHECKPOINT:
        flags = flags | {"checkpoint": request.getfixturevalue("checkpoint")}
    config = dataclasses.replace(of(name).BenchConfig(), **flags)
    check(of(name), of(name).run(config), keys)


@pytest.mark.parametrize("name", IN_PROCESSES_OF_ITS_OWN)
def test_it_ends_well_from_the_command_line(name, tmp_path):
    flags, keys, _ = SMALLEST[name]
    command = [sys.executable, "-m", f"experiments.bench.{name}", f"--output={tmp_path / 'b.json'}"]
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    check(of(name), result, keys)
    assert done.stdout == of(name).table(result) + "\n"


def check(module, result: dict, keys: set[str]) -> None:
    parts = set(result["settings"].get("parts", "").split(",")) - {""}
    if hasattr(module.BenchConfig, "parts") and not parts:
        parts = set(module.BenchConfig().parts.split(","))
    assert result.keys() == {"settings", "machine", "versions"} | keys | parts
    assert not result.get("wrong")
    assert all(map(math.isfinite, numbers(json.loads(json.dumps(result)))))
    assert len(module.table(result).splitlines()) > 1
    assert result["machine"]["cpu"] in module.table(result)


def numbers(value) -> list[float]:
    """Returns every number in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", SMALLEST)
def test_wrong_flags_are_named(name):
    config = of(name).BenchConfig()
    wrong = SMALLEST[name][2]
    if hasattr(config, "threads") and not isinstance(config, devices.BenchConfig):
        wrong = wrong | {"threads": 0}
    if "parts" in vars(config):
        wrong = wrong | {"parts": "speed of light"}
    for flag, value in wrong.items():
        with pytest.raises(InputError, match=f"--{flag}"):
            dataclasses.replace(config, **{flag: value})


@pytest.mark.parametrize("name", SMALLEST)
def test_every_flag_has_a_help_text(name):
    settings = of(name).BenchConfig
    explained = importlib.import_module("experiments.bench.timing").explanations(settings)
    assert explained.keys() == {field.name for field in dataclasses.fields(settings)}


@pytest.mark.parametrize(("name", "package"), [("generate", "torch"), ("against_peft", "peft")])
def test_the_other_side_is_asked_for(name, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"{package} is not installed: pip install -r requirem"):
        of(name).run(of(name).BenchConfig())
