"""Projection of whole leaves at once, which the library does leaf by leaf in a backward pass."""

import jax
import jax.numpy as jnp

from g2is_jax.features.projection import (
    ProjectionConfig,
    add_leaf,
    empty_sum,
    finished,
    random_bits,
)


def project(config: ProjectionConfig, seed: int, leaves: dict[str, jax.Array]) -> jax.Array:
    """Project leaves of shape (B, ...) together: features (B, P), float32."""
    shapes = {path: leaf.shape[1:] for path, leaf in leaves.items()}
    bits = random_bits(config, seed, shapes)

    def of_example(leaves):
        total = empty_sum(config, shapes)
        for path, leaf in sorted(leaves.items()):
            x_G = leaf.reshape(-1).astype(jnp.float32)
            total = add_leaf(config)(bits[path], x_G, total)
        return finished(config, total)

    return jax.vmap(of_example)(leaves)
