"""Loading a checkpoint: host memory beside the weights themselves, and time.

    python -m experiments.bench.load --output=runs/bench_load.json

Writes a random Llama of float32 weights in several files. Each load is a process of its own; in
turns with it, safetensors alone reads the same bytes. On a CPU the loaded weights lie in the host's
memory too, so what is counted is the peak above them and above the process before the load.
"""

import dataclasses
import functools
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import safetensors
from etils import epath
from safetensors.numpy import load_file

from experiments.bench.timing import (
    alternate,
    heading,
    launch,
    machine,
    paired_ratio,
    timed,
    versions,
)
from g2is_jax.model.build import Model, ModelConfig, build_model
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import NO_ADAPTER
from g2is_jax.model.weights import read_weights, write_checkpoint

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


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    layers: layers of 67 MB each, beside 1.05 GB of embeddings
    repeats: loads of each kind
    """

    layers: int = 16
    repeats: int = 3


def run(config: BenchConfig) -> dict:
    """Returns every reader's memory and time, medians and single runs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = epath.Path(temporary)
        write(folder, config.layers)
        files = len(list(folder.glob("*.safetensors")))
        runs = measure(folder, config.repeats)
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax, safetensors),
        "files": files,
        "readers": {reader: summary(loads, runs["safetensors"]) for reader, loads in runs.items()},
        "runs": runs,
    }


def load(folder: epath.Path, reader: str) -> dict[str, float]:
    """Returns seconds, and bytes: of the weights, of the largest tensor, of the peak above both."""
    shapes = model_of(read_raw_config(folder)).base_shapes
    jax.devices()  # starts the backend
    before = _resident_bytes()
    if reader == "safetensors":
        seconds, leaves = timed(lambda: whole_files(folder))
    else:
        seconds, leaves = timed(lambda: dict(read_weights(folder, shapes, np.dtype(reader))))
    sizes = [leaf.nbytes for leaf in leaves.values()]
    above = _peak_bytes() - before - sum(sizes)
    return {"seconds": seconds, "weights": sum(sizes), "largest": max(sizes), "above": above}


def whole_files(folder: epath.Path) -> dict:
    """Reads all tensors by safetensors alone."""
    leaves: dict = {}
    for file in sorted(folder.glob("*.safetensors")):
        leaves |= load_file(file)
    return leaves


def _resident_bytes() -> int:
    """Returns the memory in use; where the system does not report it, the peak so far."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return _peak_bytes()
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def model_of(raw: dict) -> Model:
    """Returns the model of a config, without weights."""
    settings = ModelConfig("float32", "float32", "blocks", remat=False, shard_base=False)
    return build_model(decoder_config(raw, "config.json"), NO_ADAPTER, settings)


def write(folder: epath.Path, layers: int) -> None:
    """Writes the random checkpoint."""
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
    """Runs every reader once for the file cache, then all in turns, each in a new process."""
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}

    def load_once(reader: str) -> None:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            runs[reader].append(process.submit(load, folder, reader).result())

    alternate({reader: functools.partial(load_once, reader) for reader in READERS}, repeats + 1)
    return {reader: loads[1:] for reader, loads in runs.items()}


def summary(loads: list[dict[str, float]], alone: list[dict[str, float]]) -> dict[str, float]:
    """Returns one reader's medians; its time as a ratio to safetensors alone in the same round."""
    seconds, expected = ([load["seconds"] for load in side] for side in (loads, alone))
    return {
        "weights_gb": loads[0]["weights"] / GB,
        "largest_tensor_gb": loads[0]["largest"] / GB,
        "above_weights_gb": max(load["above"] for load in loads) / GB,
        "seconds": statistics.median(seconds),
        "time_against_safetensors": paired_ratio(seconds, expected)["median"],
    }


def table(result: dict) -> str:
    """Returns a line a reader."""
    lines = [
        heading(result),
        "reader       weights GB  largest GB  peak above GB  seconds  time / safetensors alone",
    ]
    for reader, row in result["readers"].items():
        lines.append(
            f"{reader:12} {row['weights_gb']:10.2f} {row['largest_tensor_gb']:11.2f} "
            f"{row['above_weights_gb']:14.2f} {row['seconds']:8.2f} "
            f"{row['time_against_safetensors']:10.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table, cores=None)


if __name__ == "__main__":
    main()
