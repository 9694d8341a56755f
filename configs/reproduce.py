"""The paper's rows: G2IS at 1 % of a pool, beside LESS, random rows and this project's walk.

    python -m experiments.run_all --workdir=runs/llama31_8b_gsm8k \\
        --config=configs/reproduce.py:model=llama31_8b,target=gsm8k,pool=infinity

Each key may be left out; these are the defaults. docs/reproduce.md has the command, the published
figure and the estimated hours of every model and target, and where each value comes from.

The pool's file is yours to put there, in the project's row format. The target's are
`data/val_TARGET.jsonl`, the few rows that describe it, from which its worked examples are taken
too, and `data/test_TARGET.jsonl`: `python -m experiments.fetch_task --task=TARGET
--destination=data` writes both.
"""

from collections.abc import Collection

from ml_collections import ConfigDict

from configs import default
from g2is_jax.runs.errors import InputError

MODELS = {
    "llama31_8b": "meta-llama/Llama-3.1-8B",
    "gemma_7b": "google/gemma-7b",
    "mistral_7b": "mistralai/Mistral-7B-v0.3",
}
# Tokens of the longest reply; of GPQA and MMLU the likeliest letter is taken, and none is written.
TARGETS = {"bbh": 512, "gpqa": 0, "gsm8k": 512, "math": 1024, "mmlu": 0}
POOLS = {
    "infinity": "data/infinity_instruct.jsonl",
    "cot": "data/cot_collection.jsonl",
    "flan": "data/flan.jsonl",
}
# Tokens a chip of the feature pass, of training and of evaluation, by `chips` and model: on one
# large device, and on a slice of TPU chips batches that the compiler has room for.
BATCHES = {
    "one": dict.fromkeys(MODELS, (4096, 4096, 32768)),
    "v5e_8": {
        "llama31_8b": (20480, 16384, 24576),
        "gemma_7b": (8192, 8192, 8192),
        "mistral_7b": (8192, 8192, 16384),
    },
}
CHOICES: dict[str, Collection[str]] = {
    "model": MODELS,
    "target": TARGETS,
    "pool": POOLS,
    "chips": BATCHES,
}
DEFAULTS = "model=llama31_8b,target=gsm8k,pool=infinity,chips=one"


def get_config(argument: str = DEFAULTS) -> ConfigDict:
    """The config of a base model, a target and a pool, which the argument names by key=value."""
    model, target, pool, chips = parse_argument(argument).values()
    config = default.get_config()
    config.model.checkpoint = MODELS[model]
    config.model.chat_template = "tulu"
    config.data.pool = POOLS[pool]
    config.data.validation = f"data/val_{target}.jsonl"
    config.data.test = f"data/test_{target}.jsonl"
    features, training, evaluation = BATCHES[chips][model]
    config.grads.batch_tokens = features
    config.warmup.microbatch_tokens = training
    config.finetune.microbatch_tokens = training
    config.evaluate.batch_tokens = evaluation
    config.model.remat = config.model.shard_base = chips != "one"
    config.selection.budget = 0.01
    config.evaluate.tasks = target
    config.evaluate.new_tokens = TARGETS[target]
    config.run.methods = "none,random,less,g2is_paper,g2is"
    return config


def parse_argument(argument: str) -> dict[str, str]:
    """The value of each key of CHOICES, in their order; those that are not named by default.

    InputError: a key or a value that is unknown, or a key that is named twice.
    """
    found: dict[str, str] = {}
    for part in argument.split(","):
        key, _, value = (text.strip() for text in part.partition("="))
        if key not in CHOICES:
            raise _wrong(f"key {key!r} is unknown; choose from {', '.join(CHOICES)}")
        if value not in CHOICES[key]:
            raise _wrong(f"{key} {value!r} is unknown; choose from {', '.join(CHOICES[key])}")
        if key in found:
            raise _wrong(f"key {key!r} is named twice; name each once")
        found[key] = value
    defaults = dict(part.split("=") for part in DEFAULTS.split(","))
    return defaults | found


def _wrong(problem: str) -> InputError:
    return InputError(
        f"configs/reproduce.py: {problem}, as in --config=configs/reproduce.py:{DEFAULTS}"
    )
