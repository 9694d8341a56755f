"""The methods: what each looks at, which settings it reads, and how it chooses.

A new method is a new entry of METHODS; nothing here knows of models, stages or files.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from g2is_jax.pipeline.fields import listed, owned
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import (
    BudgetConfig,
    Limits,
    Selection,
    everything,
    longest,
    random_rows,
)
from g2is_jax.selection.core import Core, KnowledgeConfig, core_knowledge
from g2is_jax.selection.neighbours import GraphConfig, neighbours
from g2is_jax.selection.rivals.coverage import coverage, pursuit
from g2is_jax.selection.rivals.influence import gist, knn_uniform, less, less_rr, rds_plus
from g2is_jax.selection.rivals.lexical import bm25, dsir
from g2is_jax.selection.walk.rules import WalkConfig
from g2is_jax.selection.walk.select import gradient_walk

NOTHING, TEXTS, HIDDEN, FEATURES = "nothing", "texts", "hidden states", "features"
SECTIONS = {"g2is": "", "g2is_paper": "paper."}  # walk -> where its sections stand in the config
# Sections of the config that make features, and those that come after the selection.
OF_FEATURES = ("lora", "warmup", "grads", "projection")
AFTER_CHOOSING = ("finetune", "evaluate")


@dataclass(frozen=True)
class WalkSettings:
    """Everything that a walk reads beside the rows."""

    knowledge: KnowledgeConfig
    graph: GraphConfig
    walk: WalkConfig

    @property
    def identity(self) -> dict:
        """As JSON, without what these settings do not read."""
        found = {name: dataclasses.asdict(getattr(self, name)) for name in vars(self)}
        if self.graph.kind != "knn":
            del found["graph"]["neighbours"]
        if self.knowledge.anchors == "rows":
            del found["knowledge"]["sign"]
        if self.walk.order == "components":
            del found["walk"]["fairness"]
        return found


@dataclass(frozen=True)
class Choosing:
    """The part of a config that says what to choose, and by which methods."""

    methods: list[str]
    budget: BudgetConfig
    walks: dict[str, WalkSettings]
    gist_rank: int


@dataclass(frozen=True, eq=False)
class Material:
    """What a method may look at. What it does not need is not there.

    tokens_N: supervised tokens of each row. mesh: devices that share a walk. pool_NP and
    validation_MP: unit rows of features, or of hidden states. unnormalised_MP: the validation
    features at their own lengths, subtasks_M their labels. Texts of a row are its prompt and all
    of it.
    """

    choosing: Choosing
    limits: Limits
    seed: int
    tokens_N: np.ndarray
    mesh: Mesh | None = None
    pool_NP: Any = None
    validation_MP: Any = None
    unnormalised_MP: Any = None
    subtasks_M: Any = None
    pool_prompts: Sequence[str] = ()
    pool_texts: Sequence[str] = ()
    validation_prompts: Sequence[str] = ()
    validation_texts: Sequence[str] = ()


@dataclass(frozen=True)
class Method:
    """needs: what it looks at beside tokens. choose: None chooses no row, and has no stage.

    kind: of the pool's features, from the config. seeded: another seed gives another selection.
    reads: the settings of its own that decide what it chooses; sections: where they stand in the
    config, which no other method reads.
    """

    needs: str
    choose: Callable[[Material], Selection] | None
    kind: Callable[[ConfigDict], str] | None = None
    seeded: bool = False
    reads: Callable[[Choosing], dict] = lambda choosing: {}
    sections: tuple[str, ...] = ()


def _walk(name: str, kind: Callable[[ConfigDict], str], sections: tuple[str, ...]) -> Method:
    return Method(
        FEATURES,
        functools.partial(_walked, name),
        kind,
        reads=lambda choosing: choosing.walks[name].identity,
        sections=sections,
    )


def core_of(knowledge: KnowledgeConfig, m: Material) -> Core:
    """Of unit rows, those that weigh several checkpoints by their weights, whatever the lengths of
    their gradients."""
    rows_MP = m.validation_MP if knowledge.unit_rows else m.unnormalised_MP
    return core_knowledge(rows_MP, knowledge)


def _walked(name: str, m: Material) -> Selection:
    settings = m.choosing.walks[name]
    core = core_of(settings.knowledge, m)
    stored, count = settings.graph.kind == "knn", settings.graph.neighbours
    near_NE = neighbours(m.pool_NP, count, m.mesh)[0] if stored else None
    return gradient_walk(m.pool_NP, core, m.limits, settings.walk, near_NE, mesh=m.mesh)


def _own_kind(config: ConfigDict) -> str:
    return config.grads.kind


def _less_kind(config: ConfigDict) -> str:
    return config.grads.less_kind


METHODS: dict[str, Method] = {
    "none": Method(NOTHING, None),
    "full": Method(NOTHING, lambda m: everything(m.limits)),
    "random": Method(NOTHING, lambda m: random_rows(m.limits, m.seed), seeded=True),
    "length": Method(NOTHING, lambda m: longest(m.tokens_N, m.limits)),
    "bm25": Method(TEXTS, lambda m: bm25(m.pool_prompts, m.validation_prompts, m.limits)),
    "dsir": Method(
        TEXTS, lambda m: dsir(m.pool_texts, m.validation_texts, m.limits, m.seed), seeded=True
    ),
    "rds_plus": Method(HIDDEN, lambda m: rds_plus(m.pool_NP, m.validation_MP, m.limits)),
    "less": Method(
        FEATURES,
        lambda m: less(m.pool_NP, m.validation_MP, m.subtasks_M, m.limits),
        _less_kind,
    ),
    "less_rr": Method(
        FEATURES, lambda m: less_rr(m.pool_NP, m.validation_MP, m.limits), _less_kind
    ),
    "gist": Method(
        FEATURES,
        lambda m: gist(m.pool_NP, m.unnormalised_MP, m.subtasks_M, m.choosing.gist_rank, m.limits),
        lambda config: "sgd",  # whatever the others take: the method's own rule
        reads=lambda choosing: {"rank": choosing.gist_rank},
        sections=("gist",),
    ),
    "knn_uniform": Method(
        FEATURES, lambda m: knn_uniform(m.pool_NP, m.validation_MP, m.limits), _own_kind
    ),
    "coverage": Method(
        FEATURES,
        lambda m: coverage(m.pool_NP, m.validation_MP, m.limits, no_conflict=False),
        _own_kind,
    ),
    "pursuit": Method(FEATURES, lambda m: pursuit(m.pool_NP, m.validation_MP, m.limits), _own_kind),
    "g2is_paper": _walk("g2is_paper", lambda config: config.paper.kind, ("paper",)),
    "g2is": _walk("g2is", _own_kind, ("knowledge", "graph", "walk")),
}


def read_choosing(config: ConfigDict) -> Choosing:
    """The methods and their settings; InputError names a field that is wrong."""
    if config.gist.rank < 1:
        raise InputError(f"gist.rank = {config.gist.rank}; it must be at least 1")
    return Choosing(
        methods=_methods(config.run.methods),
        budget=owned(BudgetConfig, config.selection, "selection"),
        walks={
            "g2is": _walk_settings(config, SECTIONS["g2is"]),
            "g2is_paper": _walk_settings(config.paper, SECTIONS["g2is_paper"]),
        },
        gist_rank=config.gist.rank,
    )


def _walk_settings(section: ConfigDict, name: str) -> WalkSettings:
    return WalkSettings(
        owned(KnowledgeConfig, section.knowledge, f"{name}knowledge"),
        owned(GraphConfig, section.graph, f"{name}graph"),
        owned(WalkConfig, section.walk, f"{name}walk"),
    )


def _methods(text: str) -> list[str]:
    methods = listed(text, "run.methods")
    for method in methods:
        if method not in METHODS:
            raise InputError(
                f"run.methods: {method!r} is unknown; choose from {', '.join(METHODS)}"
            )
    return methods


def identity(method: str, choosing: Choosing, seed: int) -> dict:
    """The settings that decide what a method chooses, and no others."""
    own = {"method": method, **METHODS[method].reads(choosing)}
    if method == "full":  # it takes the whole pool, whatever the budget
        return own
    seeded = {"seed": seed} if METHODS[method].seeded else {}
    return own | {"budget": dataclasses.asdict(choosing.budget)} | seeded


def reads(method: str, field: str) -> bool:
    """Whether the field of the config can change what the method chooses."""
    section = field.partition(".")[0]
    owners = [name for name, of in METHODS.items() if section in of.sections]
    if owners:
        return method in owners
    if section in OF_FEATURES:
        return METHODS[method].needs == FEATURES
    return section not in AFTER_CHOOSING


def choosers(methods: Sequence[str]) -> list[str]:
    """Those that choose rows."""
    return [method for method in methods if METHODS[method].choose is not None]


def needing(methods: Sequence[str], needs: str) -> list[str]:
    """Those that look at this."""
    return [method for method in methods if METHODS[method].needs == needs]
