"""Gradients of a base's own layers by two-sided projection, against those of an adapter.

    python -m experiments.bench.layers --model=skills
    python -m experiments.bench.layers --parts=speed --model=FOLDER --dtype=bfloat16

Parts, by commas: `cosines` (of all pairs of rows, against those of the layers' whole gradients, by
the rows of a side and by the width in all) and `speed` (a batch against the same of an adapter of
--rank, in turns, and the temporary memory of both compiled programs).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from experiments.bench.models import (
    Subject,
    compiled,
    cosines,
    features_of,
    full_batch,
    model_settings,
    random_rows,
    read_subject,
)
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from g2is_jax.data.chat import Encoded
from g2is_jax.features.probes import probes
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import with_adapter
from g2is_jax.model.lora import NO_ADAPTER
from g2is_jax.model.two_sided import TwoSidedConfig
from g2is_jax.training.loss import example_loss
from g2is_jax.training.optimizer import Moments

PARTS = ("cosines", "speed")
NONE = ProjectionConfig("none", 0, repetitions=1)


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of cosines and speed, by commas
    model: skills, random, or a Hugging Face folder
    dtype: of the base's weights and of the activations
    rank: rank of the adapter
    sides: rows of a projection's side to compare, by commas
    width: values in all, of the sketch
    seeds: draws of the signs
    rows, tokens: rows of a batch and their length
    threads: cores to use
    repeats: rounds
    """

    parts: str = "cosines,speed"
    model: str = "skills"
    dtype: str = "float32"
    rank: int = 16
    sides: str = "4,8,16,32"
    width: int = 8192
    seeds: int = 5
    rows: int = 16
    tokens: int = 64
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        check_settings(
            self, PARTS, ("rank", "width", "seeds", "rows", "tokens", "threads", "repeats")
        )

    @property
    def widths(self) -> list[int]:
        """K of each comparison."""
        return list(map(int, self.sides.split(",")))


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {"cosines": measure_cosines, "speed": measure_speed}
    return measured(config, parts, ("jax", "numpy"))


def subject_of(config: BenchConfig) -> Subject:
    settings = model_settings({"dtype": config.dtype, "activations": config.dtype})
    return read_subject(config.model, config.rank, settings)


def probed(subject: Subject, width: int, seed: int = 0) -> Subject:
    """Returns the subject with probes in place of its adapter."""
    model = with_adapter(subject.model, TwoSidedConfig(width, ("all-linear",)))
    leaves = probes(model, seed)
    return dataclasses.replace(
        subject, model=model, adapter=leaves, moments=Moments(0, leaves, leaves)
    )


def measure_cosines(config: BenchConfig) -> dict:
    """Returns the root mean square error of the cosines of pairs, by K, whole and sketched."""
    subject = subject_of(config)
    rows = random_rows([config.tokens] * config.rows, subject.model.config.vocab_size)
    exact = cosines(whole_gradients(subject, rows))
    pairs = ~np.eye(config.rows, dtype=bool)
    batch = full_batch(subject, config.rows, config.tokens)
    sketch = ProjectionConfig("sketch", config.width, repetitions=2)

    def error(subjects: Sequence[Subject], projection: ProjectionConfig) -> float:
        squares = []
        for own in subjects:
            function, inputs = features_of(own, "sgd", projection)
            found = cosines(np.asarray(function(inputs, *batch).features_KBP[0]))
            squares.append(np.mean((found - exact)[pairs] ** 2))
        return float(np.sqrt(np.mean(squares)))

    return {
        "pairs": int(pairs.sum()) // 2,
        "spread": float(exact[pairs].std()),
        "errors": {
            K: {"whole": error(draws, NONE), "sketched": error(draws, sketch)}
            for K in config.widths
            for draws in ([probed(subject, K, seed) for seed in range(config.seeds)],)
        },
        "adapter": error([subject], NONE),
    }


def whole_gradients(subject: Subject, rows: Sequence[Encoded]) -> np.ndarray:
    """Returns the gradient of each row's mean loss with respect to all linear layers, [B, G]."""
    model = with_adapter(subject.model, NO_ADAPTER)
    linear = {path: x for path, x in subject.base.items() if path.endswith("_proj.weight")}

    @jax.jit
    def gradient(linear, tokens_T, supervised_T):
        def mean(linear):
            base = subject.base | linear
            total, count = example_loss(model, {}, base, tokens_T, supervised_T)
            return total / count

        return jax.grad(mean)(linear)

    found = []
    for row in rows:
        leaves = gradient(linear, row.tokens_T, row.supervised_T)
        found.append(np.concatenate([np.ravel(leaves[path]) for path in sorted(leaves)]))
    return np.stack(found)


def measure_speed(config: BenchConfig) -> dict:
    """Times a batch of each pass, and takes the temporary bytes of its program."""
    subject = subject_of(config)
    batch = full_batch(subject, config.rows, config.tokens)
    sketch = ProjectionConfig("sketch", config.width, repetitions=2)
    subjects = {"adapter": subject} | {f"K = {K}": probed(subject, K) for K in config.widths}
    calls, memory = {}, {}
    for name, own in subjects.items():
        function, inputs = features_of(own, "sgd", sketch)
        program = compiled(function, inputs, batch)
        memory[name] = program.memory_analysis().temp_size_in_bytes
        calls[name] = lambda program=program, inputs=inputs: jax.block_until_ready(
            program(inputs, *batch)
        )
        calls[name]()
    seconds = alternate(calls, config.repeats)
    tokens = config.rows * config.tokens
    return {
        "seconds": seconds,
        "temporary_bytes": memory,
        "tokens_a_second": {name: tokens / float(np.median(s)) for name, s in seconds.items()},
        "against_adapter": {n: paired_ratio(seconds["adapter"], s) for n, s in seconds.items()},
    }


def table(result: dict) -> str:
    """Returns a line for each K."""
    s = result["settings"]
    lines = [heading(result), f"{s['model']}, {s['rows']} rows of {s['tokens']}, {s['dtype']}"]
    if "cosines" in result:
        found = result["cosines"]
        lines += [
            f"cosines of {found['pairs']:,} pairs, which spread by {found['spread']:.3f}",
            f"root mean square error over {s['seeds']} draws; an adapter's {found['adapter']:.4f}",
        ]
        for K, error in found["errors"].items():
            sketched = f"sketched to {s['width']:,}: {error['sketched']:.4f}"
            lines.append(f"  K = {K}: {error['whole']:.4f}, {sketched}")
    if "speed" in result:
        found = result["speed"]
        lines.append(f"speed against an adapter of rank {s['rank']}, temporary memory")
        for name, ratio in found["against_adapter"].items():
            lines.append(
                f"  {name}: {ranged(ratio, 2)}, {found['tokens_a_second'][name]:,.0f} tokens/s, "
                f"{found['temporary_bytes'][name] / 1e9:.2f} GB"
            )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
