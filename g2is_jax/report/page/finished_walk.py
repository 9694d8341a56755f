"""A finished walk, as the sections about walks read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.rules import WalkConfig


@dataclass(frozen=True, eq=False)
class Walk:
    """Holds a walk for a target, at a seed.

    picks: the lines of selection.jsonl, a chosen row each, in order; prompts_K: their prompts.
    directions_C: each core direction in words. chosen_KP, sample_SP, validation_MP: unit
    rows of features of the chosen rows (or the first of them), of some rows of the pool, and of
    validation rows. listing: the file with all that the page leaves out.
    """

    method: str
    target: str
    seed: int
    config: WalkConfig
    core: Core
    picks: Sequence[dict]
    prompts_K: Sequence[str]
    directions_C: Sequence[str]
    chosen_KP: np.ndarray
    sample_SP: np.ndarray
    validation_MP: np.ndarray
    listing: str

    @property
    def title(self) -> str:
        """The method, target and seed, in words."""
        return f"{self.method} on {self.target}, seed {self.seed}"
