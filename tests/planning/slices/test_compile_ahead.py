"""The programs of a small model for slices of TPU chips, compiled on a computer that has none."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g2is_jax.planning.slices.topology import chips_of, has_compiler, hosts_of, slice_name
from g2is_jax.runs.errors import InputError
from tests.support.compilation import AS_USERS_DO
from tests.support.small import ROOT

BYTES = Path(__file__).with_name("program_bytes.json")  # of v5e:2x2, when they were last looked at
GROWTH = 1.2
MODEL = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
}
SETTINGS = """
    --config.model.checkpoint={folder} --config.model.max_length=256 --config.model.remat
    --config.model.shard_base --config.lora.rank=8 --config.projection.width=1024
    --config.grads.batch_tokens=8192 --config.finetune.microbatch_tokens=1024
    --config.warmup.microbatch_tokens=1024 --config.evaluate.batch_tokens=8192
    --config.evaluate.new_tokens=64 --config.run.methods=random,g2is
    --pool_rows=5000 --directions=4
"""
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed")


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    (folder / "config.json").write_text(json.dumps(MODEL))
    settings = SETTINGS.format(folder=folder).split()
    command = [sys.executable, "-m", "experiments.compile_ahead", "--config=configs/default.py"]
    return subprocess.run(
        [*command, *settings, *flags],
        cwd=ROOT,
        env=os.environ | AS_USERS_DO | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, dict]:
    """The records of all programs of v5e:2x2, by name."""
    folder = tmp_path_factory.mktemp("ahead")
    done = run(folder, "--topology=v5e:2x2", f"--output={folder / 'found.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    return {p["program"]: p for p in json.loads((folder / "found.json").read_text())}


@needs_compiler
def test_every_program_of_a_run(programs):
    assert {p["topology"] for p in programs.values()} == {"v5e:2x2"}
    batches = {name: (p["rows"], p["tokens"]) for name, p in programs.items()}
    assert batches == {
        "features": (32, 8192),
        "training": (4, 1024),
        "update": (0, 0),
        "likelihood": (32, 8192),
        "prefill": (32, 8192),
        "decode": (32, 8192),
        "walk": (0, 0),
    }
    assert all(p["fits"] and p["compile_seconds"] >= 0 for p in programs.values())
    kinds = {name: set(p["collectives"]) for name, p in programs.items()}
    assert kinds["features"] == kinds["likelihood"] == {"all-gather"}
    assert kinds["training"] == {"all-gather", "all-reduce"}
    assert "all-to-all" in kinds["decode"]  # tokens are sent round
    assert kinds["update"] == set()
    assert kinds["walk"] == {"all-reduce"}  # no row is sent round


@needs_compiler
def test_no_program_has_grown_by_a_fifth(programs):
    """To accept one that has, write its new numbers into BYTES."""
    expected = json.loads(BYTES.read_text())
    if expected["libtpu"] != importlib.metadata.version("libtpu"):
        pytest.skip(f"bytes are known of libtpu {expected['libtpu']} alone")
    parts = ("argument_bytes", "temporary_bytes", "code_bytes")
    found = {name: {part: p[part] for part in parts} for name, p in programs.items()}
    grown = {
        f"{name}: {part}": (before, found[name][part])
        for name, sizes in expected["programs"].items()
        for part, before in sizes.items()
        if found[name][part] > GROWTH * before
    }
    assert not grown, f"grown by more than a fifth: {grown}"
    assert found.keys() == expected["programs"].keys()


@needs_compiler
def test_what_crosses_hosts(tmp_path):
    """Of four hosts: the sum of the adapter's gradients, and nothing else."""
    methods = "--config.run.methods=random"  # no features
    flags = ("--topology=v5e:4x4", f"--output={tmp_path / 'found.json'}", methods)
    done = run(tmp_path, *flags, "--config.evaluate.new_tokens=0")
    assert done.returncode == 0, done.stderr
    programs = {p["program"]: p for p in json.loads((tmp_path / "found.json").read_text())}
    assert list(programs) == ["training", "update", "likelihood"]
    crossing = programs["training"]["across_hosts"]
    assert set(crossing) == {"all-reduce"}
    assert crossing["all-reduce"] == programs["training"]["collectives"]["all-reduce"]
    assert programs["likelihood"]["across_hosts"] == programs["update"]["across_hosts"] == {}


@needs_compiler
def test_a_slice_that_there_is_not(tmp_path):
    done = run(tmp_path, "--topology=v5e:3x7")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --topology=v5e:3x7: ")
    assert done.stderr.endswith("; name one such as v5e:2x4\n")


@pytest.mark.parametrize("name", ["v9z:2x2", "v5e", "v5e:2by2", "v5e:2x2x2x2", ":2x2"])
def test_what_is_no_name_of_a_slice(name):
    with pytest.raises(InputError, match=f"--topology={name} is no slice of v5e, v6e, v5p; name"):
        chips_of(name)


def test_names_of_slices():
    assert slice_name("v5e", 8) == "v5e:2x4"
    assert slice_name("v5p", 4) == "v5p:2x2x1"
    assert chips_of("v5p:2x2x4") == ("v5p", 16)
    assert [hosts_of(*chips_of(name)) for name in ("v5e:2x4", "v5e:4x4", "v5p:2x2x2")] == [1, 4, 2]
    with pytest.raises(InputError, match="--devices=3: no v5e slice has as many; one of 1, 4, 8"):
        slice_name("v5e", 3)
