"""Speed of our decoding against transformers' own `generate`, on the same weights and prompts.

    python -m experiments.bench.generate --output=bench.json

Both run on the same CPU cores, in turns; ratios are medians over pairs of runs that follow each
other, so that other work on the machine hits both. Time until the first token (prefill) is that of
one new token; later tokens are timed by what a whole reply takes beyond it. Compilation is in the
first call, which is reported apart.
"""

import dataclasses
import functools
import importlib.util
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.bench.models import settings_of
from experiments.bench.timing import (
    alternate,
    heading,
    launch,
    machine,
    paired_ratio,
    timed,
    versions,
)
from g2is_jax.model.build import load_model
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.lora import NO_ADAPTER
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError

KV_SHARE = 2  # query heads to a key/value head of the random model
PREFILL, WHOLE = "prefill", "whole"
SIDES = ("ours", "theirs")


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    hidden, layers, heads, vocabulary: sizes of a random Llama
    checkpoint: folder of one more model to measure
    dtype: of the weights on both sides: float32 or bfloat16
    activations: ours between the weights, or auto
    model: more of our settings, as `attention=xla`: fields of the config's model section
    batch, prompt_tokens, new_tokens: rows, and their tokens before and after
    threads: cores to use
    repeats: rounds
    """

    hidden: int = 256
    layers: int = 6
    heads: int = 8
    vocabulary: int = 4096
    checkpoint: str = ""
    dtype: str = "float32"
    activations: str = "auto"
    model: str = ""
    batch: int = 8
    prompt_tokens: int = 128
    new_tokens: int = 128
    threads: int = 1
    repeats: int = 7

    def __post_init__(self):
        for field, lowest in (("new_tokens", 2), ("batch", 1), ("prompt_tokens", 1),
                              ("threads", 1), ("repeats", 1)):  # fmt: skip
            if getattr(self, field) < lowest:
                raise InputError(f"--{field} is {getattr(self, field)}; at least {lowest}")
        settings_of(self)  # are they known?
        if self.hidden % (self.heads * 2) or self.heads % KV_SHARE:
            raise InputError("--hidden must be a multiple of twice --heads, and --heads even")


def run(config: BenchConfig) -> dict:
    """Measures each model; with the machine and the versions that it was done on."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install -r requirements-parity.txt")
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(config.threads)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(folder, config)
        models = [measure("random Llama", epath.Path(folder), config)]
    if config.checkpoint:
        path = epath.Path(config.checkpoint)
        models.append(measure(path.name, path, config))
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax, torch, transformers),
        "models": models,
    }


def write_random_model(folder: str, config: BenchConfig) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    llama = transformers.LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads // KV_SHARE,
        max_position_embeddings=max(2048, config.prompt_tokens + config.new_tokens),
        initializer_range=config.hidden**-0.5,
    )
    transformers.LlamaForCausalLM(llama).save_pretrained(folder)


def measure(name: str, folder: epath.Path, config: BenchConfig) -> dict:
    """Returns one model's speeds, ours and theirs, and their ratios."""
    ours, parameters, vocabulary = our_generate(folder, config)
    shape = (config.batch, config.prompt_tokens)
    prompts_BT = np.random.default_rng(0).integers(3, vocabulary, shape).astype(np.int32)
    lengths = {PREFILL: 1, WHOLE: config.new_tokens}
    calls = {
        (side, part): functools.partial(continued, prompts_BT, new_tokens)
        for side, continued in (("ours", ours), ("theirs", their_generate(folder, config.dtype)))
        for part, new_tokens in lengths.items()
    }
    first = {name: timed(call) for name, call in calls.items()}
    replies = [first[side, WHOLE][1] for side in SIDES]
    return {
        "name": name,
        "parameters": parameters,
        "same_tokens": float(np.mean(replies[0] == replies[1])),
        "first_call_seconds": {
            side: {part: first[side, part][0] for part in lengths} for side in SIDES
        },
        **speeds(alternate(calls, config.repeats), config),
    }


def speeds(seconds: Mapping[tuple[str, str], Sequence[float]], config: BenchConfig) -> dict:
    """Returns median tokens a second of each side, and the median ratio of ours over theirs."""
    tokens = {
        "prefill": config.batch * config.prompt_tokens,
        "generation": config.batch * (config.new_tokens - 1),
        "whole": config.batch * config.new_tokens,
    }
    found: dict[str, dict] = {"tokens_per_second": {side: {} for side in SIDES}, "ratio": {}}
    for part, count in tokens.items():
        times = {side: seconds_of(seconds, side, part) for side in SIDES}
        for side, rates in found["tokens_per_second"].items():
            rates[part] = count / statistics.median(times[side])
        found["ratio"][part] = paired_ratio(times["theirs"], times["ours"])["median"]
    return found


def seconds_of(seconds: Mapping, side: str, part: str) -> list[float]:
    """Returns a part's seconds; generation is what a whole reply takes beyond its prefill."""
    if part != "generation":
        return list(seconds[side, part])
    pairs = zip(seconds[side, WHOLE], seconds[side, PREFILL], strict=True)
    return [max(whole - prefill, 1e-9) for whole, prefill in pairs]


def our_generate(folder: epath.Path, config: BenchConfig) -> tuple[Callable, int, int]:
    """Returns (prompts_BT, new_tokens) -> replies (B, new_tokens); parameters and vocabulary."""
    model, base = load_model(folder, NO_ADAPTER, settings_of(config))

    def continued(prompts_BT, new_tokens: int):
        mask_BT = np.ones(prompts_BT.shape, bool)
        rows = Prompts(prompts_BT, mask_BT, np.arange(len(prompts_BT)))
        greedy = GenerateConfig(new_tokens, temperature=0.0, top_p=1.0, seed=0)
        replies = generate(model, {}, base, rows, greedy, Stops((), ()), lambda tokens: "")
        return np.array([reply.tokens for reply in replies])

    parameters = sum(leaf.size for leaf in base.values())
    return continued, parameters, model.config.vocab_size


def their_generate(folder: epath.Path, dtype: str) -> Callable:
    """Returns the like of transformers, with its own cache and kernels."""
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        os.fspath(folder), dtype=getattr(torch, dtype), trust_remote_code=False
    ).eval()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)

    def continued(prompts_BT, new_tokens: int):
        tokens = torch.tensor(prompts_BT, dtype=torch.long)
        with torch.inference_mode():
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new_tokens,
                do_sample=False,
            )
        return out[:, tokens.shape[1] :].numpy()

    return continued


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    lines = [heading(result)]
    s = result["settings"]
    lines.append(f"{s['batch']} prompts of {s['prompt_tokens']} tokens, {s['new_tokens']} new")
    for model in result["models"]:
        lines.append(f"\n{model['name']}: {model['parameters']:,} parameters, {s['dtype']}")
        lines.append(f"{'tokens a second':<22}{'ours':>12}{'transformers':>14}{'ratio':>8}")
        rates = model["tokens_per_second"]
        for part, ratio in model["ratio"].items():
            ours, theirs = rates["ours"][part], rates["theirs"][part]
            lines.append(f"{part:<22}{ours:>12,.0f}{theirs:>14,.0f}{ratio:>8.2f}")
        first = [sum(model["first_call_seconds"][side].values()) for side in ("ours", "theirs")]
        lines.append(f"{'first calls, seconds':<22}{first[0]:>12.1f}{first[1]:>14.1f}")
        lines.append(f"equal tokens: {model['same_tokens']:.1%}")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
