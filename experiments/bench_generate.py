"""Speed of our decoding against transformers' own `generate`, on the same weights and prompts.

    python -m experiments.bench_generate --output=bench.json

Both run on the same CPU cores, in turns; ratios are medians over pairs of runs that follow each
other, so that other work on the machine hits both. Time until the first token (prefill) is that of
one new token; later tokens are timed by what a whole reply takes beyond it. Compilation is in the
first call, which is reported apart.
"""

import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up notes

from absl import app, flags, logging
from etils import epath

from g2is_jax.runs.errors import InputError

FAILED = 2  # exit status after an error that the user can act on
KV_SHARE = 2  # query heads to a key/value head of the random model
PREFILL, WHOLE = "prefill", "whole"


@dataclass(frozen=True)
class BenchConfig:
    """hidden, layers, heads, vocabulary: of a random Llama; checkpoint: one more model, or ""."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    checkpoint: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    threads: int
    repeats: int

    def __post_init__(self):
        for field, lowest in (("new_tokens", 2), ("batch", 1), ("prompt_tokens", 1),
                              ("threads", 1), ("repeats", 1)):  # fmt: skip
            if getattr(self, field) < lowest:
                raise InputError(f"--{field} is {getattr(self, field)}; at least {lowest}")
        if self.hidden % (self.heads * 2) or self.heads % KV_SHARE:
            raise InputError("--hidden must be a multiple of twice --heads, and --heads even")


def run(config: BenchConfig) -> dict:
    """The measurement of each model, with the machine and the versions it was made on."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install -r requirements-parity.txt")
    cores = pin(config.threads)
    import torch
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
        "machine": machine(cores),
        "versions": versions(),
        "models": models,
    }


def pin(threads: int) -> list[int]:
    """Keep this process to so many cores; XLA makes a thread for each core it may use."""
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot pin a process to cores; run on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise InputError(f"--threads={threads}, but there are {len(cores)} cores; lower it")
    os.sched_setaffinity(0, cores[:threads])
    return cores[:threads]


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
    """One model's speeds, ours and theirs, and their ratios."""
    import numpy as np

    ours, parameters, vocabulary = our_generate(folder, config)
    theirs = their_generate(folder)
    shape = (config.batch, config.prompt_tokens)
    prompts_BT = np.random.default_rng(0).integers(3, vocabulary, shape).astype(np.int32)
    lengths = {PREFILL: 1, WHOLE: config.new_tokens}
    first, replies = {}, {}
    for side, generate in (("ours", ours), ("theirs", theirs)):
        timed = {part: seconds_of(generate, prompts_BT, n) for part, n in lengths.items()}
        first[side] = {part: seconds for part, (seconds, _) in timed.items()}
        replies[side] = timed[WHOLE][1]
    runs = []
    for repeat in range(config.repeats):
        order = [("ours", ours), ("theirs", theirs)][:: 1 if repeat % 2 else -1]
        runs.append({
            side: {part: seconds_of(generate, prompts_BT, n)[0] for part, n in lengths.items()}
            for side, generate in order
        })  # fmt: skip
    return {
        "name": name,
        "parameters": parameters,
        "same_tokens": float(np.mean(replies["ours"] == replies["theirs"])),
        "first_call_seconds": first,
        **speeds(runs, config),
    }


def speeds(runs: Sequence[dict], config: BenchConfig) -> dict:
    """Median tokens a second of each side, and the median of ours over theirs of each pair."""
    tokens = {
        "prefill": config.batch * config.prompt_tokens,
        "generation": config.batch * (config.new_tokens - 1),
        "whole": config.batch * config.new_tokens,
    }
    seconds = {
        "prefill": lambda times: times[PREFILL],
        "generation": lambda times: max(times[WHOLE] - times[PREFILL], 1e-9),
        "whole": lambda times: times[WHOLE],
    }
    found: dict[str, dict] = {"tokens_per_second": {"ours": {}, "theirs": {}}, "ratio": {}}
    for part, time_of in seconds.items():
        for side, rates in found["tokens_per_second"].items():
            rates[part] = tokens[part] / statistics.median(time_of(pair[side]) for pair in runs)
        ratios = [time_of(pair["theirs"]) / time_of(pair["ours"]) for pair in runs]
        found["ratio"][part] = statistics.median(ratios)
    return found


def our_generate(folder: epath.Path, config: BenchConfig) -> tuple[Callable, int, int]:
    """(prompts_BT, new_tokens) -> replies (B, new_tokens); also parameters and vocabulary."""
    import numpy as np

    from g2is_jax.model.build import ModelConfig, load_model
    from g2is_jax.model.generate import Prompts, Stops, generate
    from g2is_jax.model.lora import LoraConfig
    from g2is_jax.model.sampling import GenerateConfig

    lora = LoraConfig(rank=0, alpha=1.0, dropout=0.0, targets=(), rslora=False)
    settings = ModelConfig("float32", "float32", "xla", remat=False)
    model, base = load_model(folder, lora, settings)

    def continued(prompts_BT, new_tokens: int):
        mask_BT = np.ones(prompts_BT.shape, bool)
        rows = Prompts(prompts_BT, mask_BT, np.arange(len(prompts_BT)))
        greedy = GenerateConfig(new_tokens, temperature=0.0, top_p=1.0, seed=0)
        replies = generate(model, {}, base, rows, greedy, Stops((), ()), lambda tokens: "")
        return np.array([reply.tokens for reply in replies])

    parameters = sum(leaf.size for leaf in base.values())
    return continued, parameters, model.config.vocab_size


def their_generate(folder: epath.Path) -> Callable:
    """The same with transformers, its own cache and kernels, in float32."""
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(os.fspath(folder))
    model = model.float().eval()
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


def seconds_of(generate: Callable, prompts_BT, new_tokens: int) -> tuple[float, Any]:
    start = time.perf_counter()
    replies = generate(prompts_BT, new_tokens)
    return time.perf_counter() - start, replies


def machine(cores: list[int]) -> dict:
    names = [platform.processor() or platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            found = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        names = found[:1] or names
    return {"cpu": names[0], "cores": cores, "load": os.getloadavg()[0]}


def versions() -> dict[str, str]:
    import jax
    import torch
    import transformers

    modules = (jax, torch, transformers)
    return {m.__name__: m.__version__ for m in modules} | {"python": platform.python_version()}


def table(result: dict) -> str:
    """What a reader wants to know of a result, in a few lines."""
    told = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    cores = result["machine"]["cores"]
    lines = [f"{result['machine']['cpu']}, {len(cores)} core(s); {told}"]
    s = result["settings"]
    lines.append(f"{s['batch']} prompts of {s['prompt_tokens']} tokens, {s['new_tokens']} new")
    for model in result["models"]:
        lines.append(f"\n{model['name']}: {model['parameters']:,} parameters, float32")
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
    defaults = BenchConfig(256, 6, 8, 4096, "", 8, 128, 128, 1, 7)
    for field, value in dataclasses.asdict(defaults).items():
        define = flags.DEFINE_string if isinstance(value, str) else flags.DEFINE_integer
        define(field, value, BenchConfig.__doc__)
    output = flags.DEFINE_string("output", None, "JSON file of the result.", required=True)

    def measure_and_write(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax tells which accelerators it does not find
        given: dict[str, Any] = {f: flags.FLAGS[f].value for f in dataclasses.asdict(defaults)}
        result = run(BenchConfig(**given))
        epath.Path(output.value).write_text(json.dumps(result, indent=2) + "\n")
        print(table(result))

    try:
        app.run(measure_and_write)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
