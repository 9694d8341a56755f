"""The signs of two-sided probes, drawn as those of every projection: by seed, layer and side."""

import jax.numpy as jnp

from g2is_jax.features.projection import sign_rows, sign_words
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.model.two_sided import CORE


def probes(model: Model, seed: int) -> Leaves:
    """The leaves of a model's probes (model/two_sided.py): cores of zeros, and signs in the dtype
    of the base, which holds them exactly."""
    leaves: Leaves = {}
    for path, (rows, width) in model.adapter_shapes.items():
        if path.endswith(f".{CORE}"):
            leaves[path] = jnp.zeros((rows, width), jnp.float32)
        else:
            signs_KD = sign_rows(sign_words(seed, path, rows, width), width)
            leaves[path] = signs_KD.astype(model.dtype)
    return model.adapter_layout.stacked(leaves)
