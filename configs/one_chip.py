"""A model of 1 to 2 B parameters on one chip of 16 GB, as Colab and Kaggle lend them.

    python -m experiments.run_all --config=configs/one_chip.py --workdir=runs/one_chip

Bring `data/pool.jsonl`, `data/val.jsonl` and `data/test.jsonl`, or name others by the flags of
`data`. The base needs no token of the hub; others are named by --config.model.checkpoint. What each
program needs on the chip: docs/running.md. Everything else is the default.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The config, with batches that the compiler of a v5e has room for."""
    config = default.get_config()
    config.model.checkpoint = "HuggingFaceTB/SmolLM2-1.7B"
    config.model.remat = True
    config.data.pool = "data/pool.jsonl"
    config.data.validation = "data/val.jsonl"
    config.data.test = "data/test.jsonl"
    config.grads.batch_tokens = 16384
    for training in (config.warmup, config.finetune):
        training.microbatch_tokens = 16384
    config.evaluate.batch_tokens = 16384  # half the default: the cache of 32 heads of keys
    config.run.methods = "none,random,less,g2is"
    return config
