"""A random Llama with a trained-looking adapter, Adam's moments, examples, and their features."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import pad_batch
from g2is_jax.data.chat import Encoded
from g2is_jax.features.gradients import (
    DirectionConfig,
    FeatureBatch,
    feature_function,
    shared_inputs,
)
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import LoraConfig, checkpoint_path
from g2is_jax.training.optimizer import Moments
from tests.support.tiny_models import FLOAT32, RAW

FIELDS = RAW["llama"] | {
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 34,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 6,
}
CONFIG = decoder_config(FIELDS, "config.json")
# Dropout is on in the settings, and must be off in the features.
TARGETS = ("layers.0.self_attn.v_proj", "layers.1.self_attn.o_proj")
LORA = LoraConfig(3, 5.0, 0.5, TARGETS, rslora=False)
STEP = 7
# Such that each has a say: eps is not small beside sqrt(v), nor are the bias corrections near 1.
B1, B2, EPS, SCALE = 0.8, 0.97, 1e-3, 0.02
NONE = ProjectionConfig("none", 0, repetitions=1)
LENGTHS = (9, 16, 14, 8, 6, 15, 7, 11)


def build(config=CONFIG, lora: LoraConfig = LORA, **settings) -> tuple[Model, dict, dict]:
    """Model, adapter (B is not zero) and base; the same values for all settings."""
    model = build_model(config, lora, dataclasses.replace(FLOAT32, **settings))
    rng = np.random.default_rng(1)

    def weights(shapes):
        return {path: _weight(rng, path, shape) for path, shape in sorted(shapes.items())}

    adapter, base = weights(model.adapter_shapes), weights(model.base_shapes)
    return model, model.adapter_layout.stacked(adapter), model.base_layout.stacked(base)


@functools.cache
def random_model(remat: bool = False) -> tuple[Model, dict, dict]:
    """The small one, made once, so that it compiles once."""
    return build(remat=remat)


def _weight(rng: np.random.Generator, path: str, shape: tuple[int, ...]):
    """Draws weights that keep activations near 1 and the adapter's share of them near 0.2."""
    noise = rng.normal(size=shape)
    if len(shape) == 1:
        return jnp.asarray(1 + 0.1 * noise, "float32")
    gain = 0.1 if path.endswith("lora_B") else 1.0
    return jnp.asarray(gain * shape[-1] ** -0.5 * noise, "float32")


def random_moments(model: Model, scale: float = SCALE) -> Moments:
    """First and second moments as gradients of about `scale` leave them."""
    rng = np.random.default_rng(2)
    shapes = sorted(model.adapter_shapes.items())
    first = {path: scale * rng.normal(size=shape) for path, shape in shapes}
    second = {path: (scale * rng.lognormal(size=shape)) ** 2 for path, shape in shapes}
    parts = [
        {path: jnp.asarray(leaf, "float32") for path, leaf in part.items()}
        for part in (first, second)
    ]
    return Moments(STEP, *map(model.adapter_layout.stacked, parts))


def random_examples(lengths: Sequence[int] = LENGTHS) -> list[Encoded]:
    """One example of each length, supervised in two spans; the last token of the vocabulary is
    in none."""
    examples = []
    for index, length in enumerate(lengths):
        rng = np.random.default_rng([3, index])
        supervised_T = np.zeros(length, bool)
        supervised_T[length // 3 : length // 2] = True
        supervised_T[-max(length // 5, 1) :] = True
        examples.append(
            Encoded(
                rng.integers(CONFIG.vocab_size - 1, size=length).astype(np.int32),
                supervised_T,
                False,
            )
        )
    return examples


def without_supervision(encoded: Sequence[Encoded]) -> list[Encoded]:
    """Returns the same tokens, none of them supervised."""
    return [Encoded(e.tokens_T, np.zeros_like(e.supervised_T), False) for e in encoded]


def directions(*kinds: str) -> tuple[DirectionConfig, ...]:
    return tuple(DirectionConfig(kind, B1, B2, EPS) for kind in kinds)


def inputs_of(world: tuple[Model, dict, dict], projection=NONE, seed: int = 0, mesh=None):
    """The inputs of a pass over a world: model, adapter and base."""
    model, adapter, base = world
    return shared_inputs(model, adapter, base, random_moments(model), projection, seed, mesh)


def feature_rows(
    kinds: str | Sequence[str],
    encoded: Sequence[Encoded],
    size: int = 8,
    width: int = 16,
    projection: ProjectionConfig = NONE,
    seed: int = 0,
    world: tuple[Model, dict, dict] | None = None,
) -> FeatureBatch:
    """Rows of the examples, `size` at a time and `width` tokens wide; unused places dropped."""
    world = random_model() if world is None else world
    kinds = [kinds] if isinstance(kinds, str) else kinds
    function = feature_function(world[0], directions(*kinds), projection)
    inputs, parts = inputs_of(world, projection, seed), []
    for start in range(0, len(encoded), size):
        batch = pad_batch(encoded, range(start, min(start + size, len(encoded))), size, width)
        found = map(np.asarray, function(inputs, batch.tokens_BT, batch.supervised_BT))
        features_KBP, norms_B, tokens_B = found
        real_B = batch.rows_B >= 0
        parts.append((features_KBP[:, real_B], norms_B[real_B], tokens_B[real_B]))
    features, norms, tokens = zip(*parts, strict=True)
    return FeatureBatch(
        np.concatenate(features, axis=1), np.concatenate(norms), np.concatenate(tokens)
    )


def unit(rows) -> np.ndarray:
    """Rows of length 1."""
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def flat(leaves: dict) -> np.ndarray:
    """All values, in the canonical order."""
    return np.concatenate([np.asarray(leaves[path], np.float64).ravel() for path in sorted(leaves)])


def checkpoint_name(path: str) -> str:
    return path if path == "lm_head" else f"model.{checkpoint_path(path)}"


def torch_twin(torch):
    """Builds this Llama with PEFT's adapter, in double precision; also its parameters by path."""
    import peft
    import transformers

    _, adapter, base = random_model()
    settings = transformers.LlamaConfig(**FIELDS, attn_implementation="eager")
    llama = transformers.LlamaForCausalLM(settings)
    named = {checkpoint_name(path): torch.tensor(np.asarray(x)) for path, x in base.items()}
    bare = {"model.embed_tokens", "lm_head"}  # ours carry no ".weight" there
    llama.load_state_dict({k + ".weight" if k in bare else k: x for k, x in named.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        wrapped = peft.get_peft_model(
            llama,
            peft.LoraConfig(
                r=LORA.rank,
                lora_alpha=LORA.alpha,
                lora_dropout=LORA.dropout,
                target_modules=list(LORA.targets),
                task_type="CAUSAL_LM",
            ),
        )
    wrapped = wrapped.double().eval()
    parameters = dict(wrapped.named_parameters())
    by_path = {
        path: parameters[f"base_model.model.{checkpoint_name(path)}.default.weight"]
        for path in sorted(adapter)
    }
    assert len(by_path) == sum(p.requires_grad for p in parameters.values())
    with torch.no_grad():
        for path, parameter in by_path.items():
            parameter.copy_(torch.tensor(np.asarray(adapter[path])))
    return wrapped, by_path
