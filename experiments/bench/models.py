"""The models with an adapter, and the rows, that the benchmarks of features measure on."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from configs.default import get_config
from g2is_jax.data.batches import length_batches, pad_batch
from g2is_jax.data.chat import Encoded
from g2is_jax.features.extract import Microbatches
from g2is_jax.features.gradients import (
    DirectionConfig,
    PassInputs,
    direction,
    feature_function,
    shared_inputs,
)
from g2is_jax.features.projection import Bits, ProjectionConfig, add_leaf, empty_sum, finished
from g2is_jax.model.backends import EXECUTION, execution
from g2is_jax.model.build import Model, ModelConfig, build_model, load_model
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import Leaves, LoraConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER
from g2is_jax.training.loss import batch_loss, example_loss
from g2is_jax.training.optimizer import Moments

RANDOM = {  # about 25 million parameters
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
B1, B2, EPS = 0.9, 0.999, 1e-8
GRADIENT = 1e-3  # about what a gradient's values come to, for the moments
SHORTEST = 8  # tokens


@dataclass(frozen=True)
class Subject:
    """A model with an adapter whose B is not zero, and Adam's moments."""

    name: str
    raw: dict  # config.json
    model: Model
    adapter: Leaves
    base: Leaves
    moments: Moments

    @property
    def values(self) -> int:
        """G, of a flattened gradient."""
        return sum(map(math.prod, self.model.adapter_shapes.values()))

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in self.base.values())


def model_settings(fields: Mapping[str, Any], others: str = "") -> ModelConfig:
    """Returns the decoder's settings: the default config's but for these fields of `model`.

    others: more of them as flags give them, `name=value` by commas; they come last.
    """
    section = get_config().model
    known = {name: section[name] for name in EXECUTION}
    given = dict(fields)
    for name, _, value in (part.partition("=") for part in others.split(",") if part):
        if name not in known:
            raise InputError(f"model: {name!r} is unknown; choose from {', '.join(known)}")
        given[name] = _like(known[name], name, value)
    return execution(**known | given, backend=jax.default_backend())


def settings_of(config: Any) -> ModelConfig:
    """Returns the decoder's settings that a benchmark's `dtype`, `activations` and `model` ask for.

    InputError names a flag that is wrong.
    """
    fields = {"dtype": config.dtype, "activations": config.activations}
    try:
        return model_settings(fields, config.model)
    except InputError as error:
        raise InputError(f"--{error}") from error


def _like(default: Any, name: str, value: str) -> Any:
    """Reads a flag's text as a value of the default's type."""
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise InputError(f"model: {name} is {value!r}; give true or false")
        return value == "true"
    try:
        return type(default)(value)
    except ValueError as error:
        raise InputError(f"model: {name} is {value!r}; give a number") from error


FLOAT32 = ModelConfig("float32", "float32", "blocks", False, False, scan=False)


def lora_config(rank: int, dropout: float) -> LoraConfig:
    """Returns an adapter on all attention projections, of scale 2."""
    return LoraConfig(rank, 2.0 * rank, dropout, TARGETS, rslora=False)


def read_subject(name: str, rank: int, settings: ModelConfig) -> Subject:
    """Reads `skills` (the built-in base), `random`, or a Hugging Face folder."""
    lora = lora_config(rank, dropout=0.0)
    if name == "random":
        return make_subject(name, RANDOM, lora, settings)
    folder = checkpoint_folder(name)
    model, base = load_model(folder, lora, settings)
    raw = read_raw_config(folder)
    return Subject(folder.name, raw, model, _adapter(model), base, _moments(model))


def checkpoint_folder(name: str) -> epath.Path:
    """Returns the folder of a checkpoint, of which `skills` is the built-in base."""
    return BASE_FOLDER if name == "skills" else epath.Path(name)


def make_subject(name: str, raw: dict, lora: LoraConfig, settings: ModelConfig) -> Subject:
    """Makes a model of this `config.json` with random weights."""
    model = build_model(decoder_config(raw, "config.json"), lora, settings)
    draws = np.random.default_rng(0)
    base = {
        path: jnp.asarray(draws.normal(0, shape[-1] ** -0.5, shape), model.dtype)
        if len(shape) > 1
        else jnp.ones(shape, model.dtype)
        for path, shape in sorted(model.base_shapes.items())
    }
    base = model.base_layout.stacked(base)
    return Subject(name, raw, model, _adapter(model), base, _moments(model))


def _adapter(model: Model) -> Leaves:
    draws = np.random.default_rng(1)
    leaves = {
        path: jnp.asarray(
            draws.normal(0, (0.1 if path.endswith("lora_B") else 1) * shape[1] ** -0.5, shape),
            "float32",
        )
        for path, shape in sorted(model.adapter_shapes.items())
    }
    return model.adapter_layout.stacked(leaves)


def _moments(model: Model) -> Moments:
    draws, shapes = np.random.default_rng(2), sorted(model.adapter_shapes.items())
    first = {path: GRADIENT * draws.normal(size=shape) for path, shape in shapes}
    second = {path: (GRADIENT * draws.lognormal(size=shape)) ** 2 for path, shape in shapes}
    parts = [{path: jnp.asarray(x, "float32") for path, x in part.items()}
             for part in (first, second)]  # fmt: skip
    return Moments(100, *map(model.adapter_layout.stacked, parts))


def adam(kind: str) -> DirectionConfig:
    return DirectionConfig(kind, B1, B2, EPS)


def features_of(
    subject: Subject, kind: str, projection: ProjectionConfig, mesh: Mesh | None = None
) -> tuple[Callable, PassInputs]:
    """Returns the jitted pass over a batch, and its first argument."""
    shared = (subject.model, subject.adapter, subject.base, subject.moments)
    inputs = shared_inputs(*shared, projection, 0, mesh)
    return feature_function(subject.model, (adam(kind),), projection, mesh), inputs


def pass_over(
    subject: Subject, kind: str, projection: ProjectionConfig, rows: Sequence[Encoded], tokens: int
) -> Callable[[], np.ndarray]:
    """Returns () -> features (N, P) on the host, in batches by length of about so many tokens."""
    function, inputs = features_of(subject, kind, projection)
    microbatches = Microbatches(lambda b: function(inputs, b.tokens_BT, b.supervised_BT), rows)

    def features() -> np.ndarray:
        plans = length_batches(rows, tokens)
        found = [part.features_KBP[0] for part in microbatches.run(plans)]
        order = np.concatenate([plan.rows for plan in plans])
        return np.concatenate(found)[np.argsort(order)]

    return features


def compiled(function: Any, inputs: PassInputs, batch: tuple) -> Any:
    """Returns the compiled program of a jitted pass over such a batch."""
    return function.lower(inputs, *batch).compile()


def plain_gradient(subject: Subject) -> Callable:
    """Returns jitted (inputs, tokens_BT, supervised_BT) -> the gradient, summed over rows."""

    def plain(inputs: PassInputs, tokens_BT, supervised_BT):
        def loss(adapter: Leaves):
            model = subject.model.in_training
            return batch_loss(model, adapter, inputs.base, tokens_BT, supervised_BT)

        return jax.grad(loss, has_aux=True)(inputs.adapter)

    return jax.jit(plain)


def kept_whole(subject: Subject, kind: str, projection: ProjectionConfig | None) -> Callable:
    """Returns jitted (inputs, tokens_BT, supervised_BT) -> features, by all gradients of the batch.

    The function returns their squares too; without a projection the squares of the directions in
    place of features, so that all of these are computed and read once.
    """

    def mean_loss(adapter: Leaves, base: Leaves, tokens_T, supervised_T):
        total, count = example_loss(subject.model, adapter, base, tokens_T, supervised_T)
        return total / jnp.maximum(count, 1)

    def gradient(inputs: PassInputs, tokens_T, supervised_T):
        return jax.grad(mean_loss)(inputs.adapter, inputs.base, tokens_T, supervised_T)

    def turned(inputs: PassInputs, path: str, g):
        m, v = inputs.first[path], inputs.second[path]
        return direction(adam(kind), g, m, v, inputs.step)

    def features(inputs: PassInputs, tokens_BT, supervised_BT):
        gradients = jax.vmap(gradient, in_axes=(None, 0, 0))(inputs, tokens_BT, supervised_BT)
        rows = {
            path: jax.vmap(functools.partial(turned, inputs, path))(g)
            for path, g in gradients.items()
        }
        if projection is None:
            return squares(rows), squares(gradients)
        return project_with(projection, inputs.bits, rows), squares(gradients)

    return jax.jit(features)


def squares(leaves: Leaves) -> jax.Array:
    """Adds up the squares of each row's leaves (B, ...): (B,)."""
    each = [jnp.sum(leaf.reshape(len(leaf), -1) ** 2, axis=1) for leaf in leaves.values()]
    return jnp.sum(jnp.stack(each), axis=0)


def project_with(config: ProjectionConfig, bits: Bits, leaves: Leaves) -> jax.Array:
    """Projects leaves (B, ...) to features (B, P), from bits that are there already."""
    shapes = {path: leaf.shape[1:] for path, leaf in leaves.items()}

    def project(leaves: Leaves) -> jax.Array:
        total = empty_sum(config, shapes)
        for path, leaf in sorted(leaves.items()):
            total = add_leaf(config)(bits[path], leaf.reshape(-1), total)
        return finished(config, total)

    return jax.vmap(project)(leaves)


def cosines(x_NG: np.ndarray) -> np.ndarray:
    """Returns the cosines of all pairs of rows (N, N), in float64."""
    x_NG = x_NG.astype(np.float64)
    unit_NG = x_NG / np.linalg.norm(x_NG, axis=1, keepdims=True)
    return unit_NG @ unit_NG.T


def random_rows(lengths: Sequence[int], vocabulary: int) -> list[Encoded]:
    """Draws a row of tokens of each length, supervised from its first third on."""
    draws = np.random.default_rng(3)
    rows = []
    for length in lengths:
        tokens_T = draws.integers(vocabulary, size=length).astype(np.int32)
        rows.append(Encoded(tokens_T, np.arange(length) >= max(length // 3, 1), False))
    return rows


def full_batch(subject: Subject, rows: int, tokens: int) -> tuple[jax.Array, jax.Array]:
    """Returns rows of the same length, on the device."""
    encoded = random_rows([tokens] * rows, subject.model.config.vocab_size)
    batch = pad_batch(encoded, range(rows), rows, tokens)
    return jax.device_put((batch.tokens_BT, batch.supervised_BT))


def lognormal_lengths(count: int, longest: int) -> list[int]:
    """Draws lengths like instructions': the median a third of the longest, which cuts the tail."""
    drawn = np.random.default_rng(4).lognormal(math.log(longest / 3), 0.6, count)
    return [int(length) for length in np.clip(np.rint(drawn), min(SHORTEST, longest), longest)]
