"""The part of a config that says what to choose and by which methods, checked field by field."""

from ml_collections import ConfigDict

from g2is_jax.features.ordered import MEMORY
from g2is_jax.pipeline.fields import listed, owned, part_of
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig
from g2is_jax.selection.core import KnowledgeConfig
from g2is_jax.selection.methods import (
    METHODS,
    SECTIONS,
    TARGETS,
    FeatureKinds,
    SelectionSettings,
    WalkSettings,
)
from g2is_jax.selection.neighbours import GraphConfig
from g2is_jax.selection.walk.rules import WalkConfig


def read_selection(config: ConfigDict) -> SelectionSettings:
    """The methods and their settings; InputError names a field that is wrong."""
    if config.gist.rank < 1:
        raise InputError(f"gist.rank = {config.gist.rank}; it must be at least 1")
    memory = config.selection.memory
    if memory not in MEMORY:
        raise InputError(f"selection.memory: {memory!r} is none of {', '.join(MEMORY)}")
    targets = config.selection.targets
    if targets not in TARGETS:
        raise InputError(f"selection.targets: {targets!r} is none of {', '.join(TARGETS)}")
    return SelectionSettings(
        methods=_methods(config.run.methods),
        kinds=FeatureKinds(config.grads.kind, config.grads.less_kind, config.paper.kind),
        budget=part_of(BudgetConfig, config.selection, "selection"),
        walks={
            "g2is": _walk_settings(config, SECTIONS["g2is"]),
            "g2is_paper": _walk_settings(config.paper, SECTIONS["g2is_paper"]),
        },
        gist_rank=config.gist.rank,
        encoder=config.embed.encoder,
        memory=memory,
        targets=targets,
    )


def _walk_settings(section: ConfigDict, name: str) -> WalkSettings:
    return WalkSettings(
        owned(KnowledgeConfig, section.knowledge, f"{name}knowledge"),
        owned(GraphConfig, section.graph, f"{name}graph"),
        owned(WalkConfig, section.walk, f"{name}walk"),
    )


def _methods(text: str) -> tuple[str, ...]:
    methods = listed(text, "run.methods")
    for method in methods:
        if method not in METHODS:
            raise InputError(
                f"run.methods: {method!r} is unknown; choose from {', '.join(METHODS)}"
            )
    return methods
