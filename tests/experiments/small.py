"""A job of a few seconds: a random base model of two layers, and the built-in world in small."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tiny_models import FLOAT32, NO_LORA, RAW

from configs import default
from g2is_jax.data.skills import pretraining_task, train_tokenizer
from g2is_jax.model.build import build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.weights import write_checkpoint

ROOT = Path(__file__).parents[2]
DECODER = RAW["llama"] | {
    "vocab_size": 768,  # whole words: short rows, of few widths to compile
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


def write_base(folder: epath.Path) -> None:
    """A checkpoint of random weights, with a tokenizer of the world's words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    tasks = [pretraining_task(rng, 0.5, 0.2) for _ in range(300)]
    texts = [text for task in tasks for text in (task.prompt, task.reply)]
    train_tokenizer(texts, DECODER["vocab_size"]).save_pretrained(folder)
    model = build_model(decoder_config(DECODER, "config.json"), NO_LORA, FLOAT32)
    draws = np.random.default_rng(0)
    parameters = {
        path: draws.normal(0, shape[-1] ** -0.5, shape) if len(shape) > 1 else np.ones(shape)
        for path, shape in model.base_shapes.items()
    }
    write_checkpoint(folder, DECODER, model.base_shapes, parameters.__getitem__, jnp.float32)


def small_config(checkpoint: epath.Path) -> ConfigDict:
    """`configs/default.py`, made small: one target, one seed, 76 rows."""
    config = default.get_config()
    config.model.checkpoint = str(checkpoint)
    config.model.dtype = "float32"
    config.model.activations = "float32"
    config.model.max_length = 64
    config.lora.rank = 3
    config.lora.alpha = 6.0
    config.lora.targets = "v_proj"
    config.data.pool = "skills"
    config.world.targets = "sorting_letters"
    config.world.scale = 0.02
    config.world.validation_rows = 4
    config.world.test_rows = 5
    config.warmup.fraction = 0.3
    for training in (config.warmup, config.finetune):
        training.epochs = 2
        training.batch_size = 8
        training.microbatch_tokens = 512
        training.learning_rate = 1e-2
    config.grads.kind = "rms"  # neither that of less nor that of validation rows
    config.grads.batch_tokens = 1024
    config.grads.chunk_rows = 16
    config.projection.width = 64
    config.selection.budget = 0.2
    config.evaluate.batch_tokens = 1024
    config.evaluate.new_tokens = 8
    config.lock()
    return config


def changed(config: ConfigDict, **fields) -> ConfigDict:
    """A copy with other values: `run__seeds="1"` sets `run.seeds`."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return copy


def write_config(file: Path, config: ConfigDict) -> Path:
    """The config as a file for `--config`."""
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    return file


def row(number: int, **fields) -> dict:
    """A good row, with some fields replaced."""
    messages = [
        {"role": "user", "content": f"Work out: {number} + 1"},
        {"role": "assistant", "content": f"{number} + 1 = {number + 1}. So it is {number + 1}."},
    ]
    return {"id": f"row-{number}", "messages": messages, "answer": str(number + 1)} | fields


def picking(number: int) -> dict:
    """A row of another kind: two numbers are compared."""
    a, b = number, 99 - number
    prompt, reply = f"Which one wins: {a} or {b}", f"The answer is {min(a, b)}."
    return {"prompt": prompt, "completion": reply, "answer": str(min(a, b))}


def write_rows(file: Path, rows: list[dict]) -> Path:
    """Rows as a JSON lines file, compressed if its name says so."""
    data = "".join(json.dumps(one) + "\n" for one in rows).encode()
    file.write_bytes(gzip.compress(data) if file.name.endswith(".gz") else data)
    return file


def write_files(folder: Path) -> None:
    """A pool of 40 rows from three sources, and two targets of 4 validation and 5 test rows."""
    pool = [row(n, source="plus") for n in range(10, 30)]
    for n in range(10, 30):
        pick = picking(n)
        messages = [
            {"role": "user", "content": pick["prompt"]},
            {"role": "assistant", "content": pick["completion"]},
        ]
        pool.append(
            {"messages": messages, "source": "low" if n < 20 else "high", "note": "é \u2028"}
        )
    # A blank line, a row cut before its answer, odd spacing: lines are kept as they are.
    long = row(30, messages=[{"role": "user", "content": "zebra " * 99}, *row(30)["messages"][1:]])
    lines = [json.dumps(one, ensure_ascii=False) for one in [*pool[:7], long, *pool[7:]]]
    lines[3] = lines[3].replace('": ', '" :   ')
    lines.insert(5, "")
    (folder / "pool.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(folder / "val_plus.jsonl", [row(n) for n in range(40, 44)])
    write_rows(folder / "test_plus.jsonl", [row(n) for n in range(50, 55)])
    write_rows(folder / "val_pick.jsonl.gz", [picking(n) for n in range(40, 44)])
    write_rows(folder / "test_pick.jsonl", [picking(n) for n in range(51, 56)])


def stages(workdir: Path) -> list[str]:
    """Names of the stage folders, finished or not."""
    return sorted(entry.name for entry in (workdir / "stages").glob("*"))


def fork_each(tasks: list[dict], folder: Path) -> list[dict]:
    """Run each task of `forks.py` in a process of its own; how it ended, and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    given, told = folder / "tasks.json", folder / "told.json"
    given.write_text(json.dumps(tasks))
    program = Path(__file__).parent / "forks.py"
    done = subprocess.run(
        [sys.executable, str(program), str(given), str(told)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(told.read_text())
