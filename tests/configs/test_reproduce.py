"""The config of the paper's rows: its argument, and the values of every model, target and pool."""

import itertools

import pytest

from configs import default, reproduce
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.runs.errors import InputError

CHECKPOINTS = {
    "llama31_8b": "meta-llama/Llama-3.1-8B",
    "gemma_7b": "google/gemma-7b",
    "mistral_7b": "mistralai/Mistral-7B-v0.3",
}
REPLY_TOKENS = {"bbh": 512, "gpqa": 0, "gsm8k": 512, "math": 1024, "mmlu": 0}
POOLS = {
    "infinity": "data/infinity_instruct.jsonl",
    "cot": "data/cot_collection.jsonl",
    "flan": "data/flan.jsonl",
}
SHARED = {
    "model.chat_template": "tulu",
    "warmup.microbatch_tokens": 4096,
    "finetune.microbatch_tokens": 4096,
    "grads.batch_tokens": 4096,
    "selection.budget": 0.01,
    "run.methods": "none,random,less,g2is_paper,g2is",
}


@pytest.mark.parametrize("model", CHECKPOINTS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("target", REPLY_TOKENS)
def test_values_of_a_row(model, target, pool):
    """All fields: those of the row, those that all rows share, and else the default's."""
    config = reproduce.get_config(f"model={model},target={target},pool={pool}")
    assert config_fields(config) == config_fields(default.get_config()) | SHARED | {
        "model.checkpoint": CHECKPOINTS[model],
        "data.pool": POOLS[pool],
        "data.validation": f"data/val_{target}.jsonl",
        "data.test": f"data/test_{target}.jsonl",
        "evaluate.tasks": target,
        "evaluate.new_tokens": REPLY_TOKENS[target],
    }
    check_settings(config, "tpu")


def test_there_is_no_other_row():
    assert reproduce.CHOICES.keys() == {"model", "target", "pool", "chips"}
    expected = (CHECKPOINTS, REPLY_TOKENS, POOLS, ("one", "v5e_8"))
    for choices, known in zip(reproduce.CHOICES.values(), expected, strict=True):
        assert list(choices) == list(known)


def test_keys_come_in_any_order_and_have_defaults():
    whole = "model=llama31_8b,target=gsm8k,pool=infinity,chips=one"
    assert reproduce.get_config() == reproduce.get_config(whole)
    for order in itertools.permutations(whole.split(",")):
        assert reproduce.parse_argument(",".join(order)) == reproduce.parse_argument(whole)
    for part in ("model=gemma_7b", "target=mmlu", "pool=flan"):
        key, _, value = part.partition("=")
        assert reproduce.parse_argument(part) == reproduce.parse_argument(whole) | {key: value}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pool=wiki", "pool 'wiki' is unknown; choose from infinity, cot, flan"),
        ("model=llama", "model 'llama' is unknown; choose from llama31_8b, gemma_7b, mistral_7b"),
        ("target=gsm8k,model=", "model '' is unknown; choose from llama31_8b"),
        ("cot", "key 'cot' is unknown; choose from model, target, pool, chips"),
        ("", "key '' is unknown; choose from model, target, pool, chips"),
        ("pool=cot,pool=flan", "key 'pool' is named twice; name each once"),
    ],
)
def test_a_wrong_argument_is_answered_by_the_choices_and_an_example(argument, message):
    with pytest.raises(InputError) as raised:
        reproduce.get_config(argument)
    text = str(raised.value)
    assert text.startswith(f"configs/reproduce.py: {message}")
    example = "--config=configs/reproduce.py:model=llama31_8b,target=gsm8k,pool=infinity,chips=one"
    assert text.endswith(f", as in {example}")


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_a_slice_shares_the_base_and_has_batches_of_its_own(model):
    """All fields but those are the row's; the compiler found the batches (docs/reproduce.md)."""
    row, on_slice = (
        config_fields(reproduce.get_config(f"model={model},chips={chips}"))
        for chips in ("one", "v5e_8")
    )
    features, training, evaluation = reproduce.BATCHES["v5e_8"][model]
    assert on_slice == row | {
        "model.remat": True,
        "model.shard_base": True,
        "grads.batch_tokens": features,
        "warmup.microbatch_tokens": training,
        "finetune.microbatch_tokens": training,
        "evaluate.batch_tokens": evaluation,
    }


def test_values_that_the_paper_states():
    config = reproduce.get_config()
    assert (config.lora.rank, config.lora.alpha, config.projection.width) == (128, 512.0, 8192)
    assert (config.finetune.epochs, config.finetune.schedule) == (3, "cosine")
    assert config.paper.to_dict() == default.paper_preset().to_dict()
