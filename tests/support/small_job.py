"""A job of a few seconds: a random base model of two layers, and the built-in world in small."""

import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from configs import default
from g2is_jax.model.build import build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import NO_ADAPTER
from g2is_jax.model.weights import write_checkpoint
from g2is_jax.pipeline.pretraining import FLOAT32
from g2is_jax.skills.world import pretraining_task, train_tokenizer

DECODER: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 768,  # whole words: short rows, of few widths to compile
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_theta": 1234.5,
    "rms_norm_eps": 3e-4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_base(folder: epath.Path) -> None:
    """A checkpoint of random weights, with a tokenizer of the world's words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    tasks = [pretraining_task(rng, 0.5, 0.2) for _ in range(300)]
    texts = [text for task in tasks for text in (task.prompt, task.reply)]
    train_tokenizer(texts, DECODER["vocab_size"]).save_pretrained(folder)
    model = build_model(decoder_config(DECODER, "config.json"), NO_ADAPTER, FLOAT32)
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
        training.packing = False
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


def job_of_files(base: epath.Path, files: Path, measured: bool = False, **fields) -> ConfigDict:
    """`small_config` with the pool and the target of the fixture `files`, changed further."""
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=str(files / "val_plus.jsonl"),
        data__test=str(files / "test_plus.jsonl") if measured else "",
        **fields,
    )


def write_config(file: Path, config: ConfigDict) -> Path:
    """The config as a file for `--config`."""
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    return file
