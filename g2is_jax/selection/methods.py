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
class FeatureKinds:
    """The kind of the pool's features, by who takes it (see `features.gradients.KINDS`)."""

    own: str
    less: str
    paper: str


@dataclass(frozen=True)
class SelectionSettings:
    """The methods that choose, the budget, and what else each of them reads."""

    methods: tuple[str, ...]
    kinds: FeatureKinds
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

    settings: SelectionSettings
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

    kind: of the pool's features. seeded: another seed gives another selection.
    reads: the settings of its own that decide what it chooses; sections: where they stand in the
    config, which no other method reads.
    """

    needs: str
    choose: Callable[[Material], Selection] | None
    kind: Callable[[FeatureKinds], str] | None = None
    seeded: bool = False
    reads: Callable[[SelectionSettings], dict] = lambda settings: {}
    sections: tuple[str, ...] = ()


def _walk(name: str, kind: Callable[[FeatureKinds], str], sections: tuple[str, ...]) -> Method:
    return Method(
        FEATURES,
        functools.partial(_walked, name),
        kind,
        reads=lambda settings: settings.walks[name].identity,
        sections=sections,
    )


def core_of(knowledge: KnowledgeConfig, m: Material) -> Core:
    """Of unit rows, those that weigh several checkpoints by their weights, whatever the lengths of
    their gradients."""
    rows_MP = m.validation_MP if knowledge.unit_rows else m.unnormalised_MP
    return core_knowledge(rows_MP, knowledge)


def _walked(name: str, m: Material) -> Selection:
    settings = m.settings.walks[name]
    core = core_of(settings.knowledge, m)
    stored, count = settings.graph.kind == "knn", settings.graph.neighbours
    near_NE = neighbours(m.pool_NP, count, m.mesh)[0] if stored else None
    return gradient_walk(m.pool_NP, core, m.limits, settings.walk, near_NE, mesh=m.mesh)


def _own_kind(kinds: FeatureKinds) -> str:
    return kinds.own


def _less_kind(kinds: FeatureKinds) -> str:
    return kinds.less


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
        lambda m: gist(m.pool_NP, m.unnormalised_MP, m.subtasks_M, m.settings.gist_rank, m.limits),
        lambda kinds: "sgd",  # whatever the others take: the method's own rule
        reads=lambda settings: {"rank": settings.gist_rank},
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
    "g2is_paper": _walk("g2is_paper", lambda kinds: kinds.paper, ("paper",)),
    "g2is": _walk("g2is", _own_kind, ("knowledge", "graph", "walk")),
}


def identity(method: str, settings: SelectionSettings, seed: int) -> dict:
    """The settings that decide what a method chooses, and no others."""
    own = {"method": method, **METHODS[method].reads(settings)}
    if method == "full":  # it takes the whole pool, whatever the budget
        return own
    seeded = {"seed": seed} if METHODS[method].seeded else {}
    return own | {"budget": dataclasses.asdict(settings.budget)} | seeded


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
