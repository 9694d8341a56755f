"""Loading a checkpoint: host memory beside the weights themselves, and time.

    python -m experiments.bench_load --output=runs/bench_load.json

Writes a random Llama of float32 weights in several files. Each load is a process of its own; in
turns with it, safetensors alone reads the same bytes. On a CPU the loaded weights lie in the host's
memory too, so what is counted is the peak above them and above the process before the load.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from etils import epath
from safetensors import __version__ as safetensors_version
from safetensors.numpy import load_file

from g2is_jax.model.build import Model, ModelConfig, build_model
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import LoraConfig
from g2is_jax.model.weights import read_weights, write_checkpoint
from g2is_jax.runs.manifest import write_atomic

FIELDS = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 4096,
}
SHARDS = 8
READERS = ("float32", "bfloat16", "safetensors")  # the dtype to load as, or the library alone
GB = 1e9


def load(folder: epath.Path, reader: str) -> dict[str, float]:
    """Seconds, and bytes: of the weights, of the largest tensor, of the peak above both."""
    shapes = model_of(read_raw_config(folder)).base_shapes
    jax.devices()  # starts the backend
    before, start = _resident_bytes(), time.perf_counter()
    if reader == "safetensors":
        leaves: dict = {}
        for file in sorted(folder.glob("*.safetensors")):
            leaves |= load_file(file)
    else:
        leaves = dict(read_weights(folder, shapes, np.dtype(reader)))
    seconds = time.perf_counter() - start
    sizes = [leaf.nbytes for leaf in leaves.values()]
    above = _peak_bytes() - before - sum(sizes)
    return {"seconds": seconds, "weights": sum(sizes), "largest": max(sizes), "above": above}


def _resident_bytes() -> int:
    """Now; where the system does not tell, the peak so far."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return _peak_bytes()
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def model_of(raw: dict) -> Model:
    """The model of a config, without weights."""
    no_adapter = LoraConfig(rank=0, alpha=1.0, dropout=0.0, targets=(), rslora=False)
    settings = ModelConfig("float32", "float32", "xla", remat=False)
    return build_model(decoder_config(raw, "config.json"), no_adapter, settings)


def write(folder: epath.Path, layers: int) -> None:
    """The random checkpoint."""
    raw = FIELDS | {"num_hidden_layers": layers}
    shapes = model_of(raw).base_shapes
    rng = np.random.default_rng(0)
    total = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    write_checkpoint(
        folder,
        raw,
        shapes,
        lambda path: rng.standard_normal(shapes[path], np.float32),
        np.dtype(np.float32),
        shard_bytes=total // SHARDS,
    )


def measure(folder: epath.Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Every reader once for the file cache, then all in turns, another one first each time."""
    results: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
    for turn in range(repeats + 1):
        for place in range(len(READERS)):
            reader = READERS[(turn + place) % len(READERS)]
            command = [sys.executable, "-m", "experiments.bench_load", f"--load={reader}"]
            command.append(f"--folder={folder}")
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if turn > 0:
                results[reader].append(json.loads(printed.splitlines()[-1]))
    return results


def report(results: dict[str, list[dict[str, float]]], shards: int) -> dict:
    """A table of medians; times as ratios to safetensors alone in the same turn."""
    rows = {}
    for reader, runs in results.items():
        alone = results["safetensors"]
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs, alone, strict=True)]
        rows[reader] = {
            "weights_gb": runs[0]["weights"] / GB,
            "largest_tensor_gb": runs[0]["largest"] / GB,
            "above_weights_gb": max(run["above"] for run in runs) / GB,
            "seconds": statistics.median(run["seconds"] for run in runs),
            "time_against_safetensors": statistics.median(ratios),
        }
    print("reader       weights GB  largest GB  peak above GB  seconds  time / safetensors alone")
    for reader, row in rows.items():
        print(
            f"{reader:12} {row['weights_gb']:10.2f} {row['largest_tensor_gb']:11.2f} "
            f"{row['above_weights_gb']:14.2f} {row['seconds']:8.2f} "
            f"{row['time_against_safetensors']:10.2f}"
        )
    return {"files": shards, "machine": _machine(), "readers": rows, "runs": results}


def _machine() -> dict:
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "safetensors": safetensors_version,
    }


def main() -> None:
    """Measure and print; with `--load`, be one of the processes that are measured."""
    layers = flags.DEFINE_integer("layers", 16, "Layers of 67 MB, beside 1.05 GB of embeddings.")
    repeats = flags.DEFINE_integer("repeats", 3, "Loads of each kind.")
    output = flags.DEFINE_string("output", None, "JSON file of the result.")
    reader = flags.DEFINE_enum("load", None, READERS, "Internal: load --folder this way.")
    place = flags.DEFINE_string("folder", None, "Internal: the checkpoint to load.")

    def run(_: Sequence[str]) -> None:
        if reader.value:
            print(json.dumps(load(epath.Path(place.value), reader.value)))
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = epath.Path(temporary)
            write(folder, layers.value)
            files = len(list(folder.glob("*.safetensors")))
            result = report(measure(folder, repeats.value), files)
        if output.value:
            write_atomic(epath.Path(output.value), json.dumps(result, indent=2) + "\n")

    app.run(run)


if __name__ == "__main__":
    main()
