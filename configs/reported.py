"""What the configs of the paper's rows share: MODEL_TARGET.py for three base models, five targets.

Each takes its pool as an argument, `--config=configs/gemma_7b_mmlu.py:cot`; without one it is
Infinity-Instruct. The pool's file is yours to put there, in the project's row format. The target's
are `data/val_TARGET.jsonl`, the few rows that describe it, from which its worked examples are taken
too, and `data/test_TARGET.jsonl`: `python -m experiments.fetch_task --task=TARGET
--destination=data` writes both.

Where the values come from (all others are the default's, which says the same of each):

- the paper's: 1 % of the pool; LoRA r=128, alpha 512; three epochs, cosine; width 8,192; the whole
  of `g2is_paper`.
- LESS's, which the paper follows: warm-up, learning rate of the warm-up, batch of 128, dropout,
  targets of the adapter, 2,048 tokens, Adam features of the pool, plain gradients of validation
  rows, the chat template.
- free, as no public source states them: the version of Mistral-7B, learning rate and batch of the
  last training, sizes of the pools, worked examples in the prompts, which rows are validation
  rows, the longest reply, one checkpoint (LESS: all four, which takes four times the passes).
- ours: the method `g2is`; the sketch in place of dense signs, which have the same error but would
  be drawn and read anew for every few rows of an adapter of 10^8 values; tokens at once, what
  80 GB have room for.

Mistral: v0.3, the newest base model of its name when Llama-3.1 came out. v0.1 differs in its
vocabulary, its rotary base and a window of 4,096 tokens, which rows of 2,048 never fill:
`--config.model.checkpoint=mistralai/Mistral-7B-v0.1`.
"""

from ml_collections import ConfigDict

from configs import default
from g2is_jax.runs.errors import InputError

INFINITY = "infinity"
POOLS = {
    INFINITY: "data/infinity_instruct.jsonl",
    "cot": "data/cot_collection.jsonl",
    "flan": "data/flan.jsonl",
}
MODELS = {
    "llama31_8b": "meta-llama/Llama-3.1-8B",
    "gemma_7b": "google/gemma-7b",
    "mistral_7b": "mistralai/Mistral-7B-v0.3",
}
# By target; of GPQA and MMLU the likeliest letter is taken, and no reply is written.
REPLY_TOKENS = {"bbh": 512, "gpqa": 0, "gsm8k": 512, "math": 1024, "mmlu": 0}


def reported(model: str, target: str, pool: str) -> ConfigDict:
    """The config of a base model and a target, on one of the pools."""
    if pool not in POOLS:
        raise InputError(
            f"configs/{model}_{target}.py: pool {pool!r} is unknown; after the colon write one of "
            f"{', '.join(POOLS)}, as in --config=configs/{model}_{target}.py:{INFINITY}"
        )
    config = default.get_config()
    config.model.checkpoint = MODELS[model]
    config.model.chat_template = "tulu"
    config.data.pool = POOLS[pool]
    config.data.validation = f"data/val_{target}.jsonl"
    config.data.test = f"data/test_{target}.jsonl"
    config.warmup.microbatch_tokens = 4096
    config.finetune.microbatch_tokens = 4096
    config.grads.batch_tokens = 4096
    config.projection.kind = "sketch"
    config.selection.budget = 0.01
    config.evaluate.tasks = target
    config.evaluate.new_tokens = REPLY_TOKENS[target]
    config.run.methods = "none,random,less,g2is_paper,g2is"
    return config
