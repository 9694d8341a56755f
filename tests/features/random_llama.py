"""A random Llama with a trained-looking adapter, Adam's moments, and examples."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from tiny_models import FLOAT32, RAW

from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import LoraConfig
from g2is_jax.training.optimizer import Moments

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
LORA = LoraConfig(3, 5.0, 0.5, ("q_proj", "k_proj", "v_proj", "o_proj"), rslora=False)
STEP = 7


def random_model(remat: bool = False) -> tuple[Model, dict, dict]:
    """Model, adapter (B is not zero) and base; the same values for every remat."""
    model = build_model(CONFIG, LORA, dataclasses.replace(FLOAT32, remat=remat))
    rng = np.random.default_rng(1)

    def weights(shapes):
        return {path: _weight(rng, path, shape) for path, shape in sorted(shapes.items())}

    return model, weights(model.adapter_shapes), weights(model.base_shapes)


def _weight(rng: np.random.Generator, path: str, shape: tuple[int, ...]):
    """Such that activations stay near 1 and the adapter's share of them near 0.2."""
    noise = rng.normal(size=shape)
    if len(shape) == 1:
        return jnp.asarray(1 + 0.1 * noise, "float32")
    gain = 0.1 if path.endswith("lora_B") else 1.0
    return jnp.asarray(gain * shape[-1] ** -0.5 * noise, "float32")


def random_moments(model: Model, scale: float) -> Moments:
    """First and second moments as gradients of about `scale` leave them."""
    rng = np.random.default_rng(2)
    shapes = sorted(model.adapter_shapes.items())
    first = {path: scale * rng.normal(size=shape) for path, shape in shapes}
    second = {path: (scale * rng.lognormal(size=shape)) ** 2 for path, shape in shapes}
    return Moments(
        STEP,
        {path: jnp.asarray(leaf, "float32") for path, leaf in first.items()},
        {path: jnp.asarray(leaf, "float32") for path, leaf in second.items()},
    )


def random_examples(lengths: Sequence[int]) -> list[Encoded]:
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
