"""The registry of methods: the inputs each needs, the settings it reads, and how it chooses.

A new method is a new entry of METHODS; nothing here knows of models, stages or files.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from g2is_jax.features.rows import Rows
from g2is_jax.selection.budget import BudgetConfig, Limits, Selection
from g2is_jax.selection.core import Core, KnowledgeConfig, core_knowledge, joined
from g2is_jax.selection.neighbours import GraphConfig, neighbours
from g2is_jax.selection.rivals.baselines import everything, longest, random_rows
from g2is_jax.selection.rivals.bids import bids
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.gip import gip
from g2is_jax.selection.rivals.gist import gist
from g2is_jax.selection.rivals.knn import knn_even
from g2is_jax.selection.rivals.less import less, less_rr
from g2is_jax.selection.rivals.lexical import bm25, dsir
from g2is_jax.selection.rivals.loss_drop import loss_drop
from g2is_jax.selection.rivals.pursuit import pursuit
from g2is_jax.selection.rivals.rds import rds_plus
from g2is_jax.selection.rivals.tsds import tsds_kde, tsds_knn
from g2is_jax.selection.rivals.uot import uot
from g2is_jax.selection.walk.rules import WalkConfig
from g2is_jax.selection.walk.select import gradient_walk

NOTHING, TEXTS, HIDDEN, FEATURES = "nothing", "texts", "hidden states", "features"
LOSSES, EMBEDDINGS = "losses", "embeddings"
# A selection for each target; one for all of them; the rows of each target's selection in turn.
EACH, JOINT, MERGED = TARGETS = ("each", "joint", "merged")
SECTIONS = {"g2is": "", "g2is_paper": "paper."}  # walk -> where its sections stand in the config
# Sections of the config that make features, and those that come after the selection.
OF_FEATURES = ("lora", "warmup", "grads", "projection")
AFTER_CHOOSING = ("finetune", "evaluate")


@dataclass(frozen=True)
class WalkSettings:
    """The settings that a walk reads."""

    knowledge: KnowledgeConfig
    graph: GraphConfig
    walk: WalkConfig

    @property
    def identity(self) -> dict:
        """The fields as JSON, without those that the others leave unread."""
        found = {name: dataclasses.asdict(getattr(self, name)) for name in vars(self)}
        if self.graph.kind != "knn":
            del found["graph"]["neighbours"]
        if self.knowledge.anchors == "rows":
            del found["knowledge"]["sign"]
        if self.walk.order == "components":
            del found["walk"]["fairness"], found["walk"]["drift"]
        return found


@dataclass(frozen=True)
class FeatureKinds:
    """The kinds of the pool's features, one of `features.gradients.KINDS` for each reader."""

    own: str
    less: str
    paper: str


@dataclass(frozen=True)
class SelectionSettings:
    """The methods that choose, the budget, and what else each of them reads.

    memory: where the pool's features lie meanwhile, of `features.ordered.MEMORY`; it changes
    nothing that is chosen. targets: of TARGETS.
    """

    methods: tuple[str, ...]
    kinds: FeatureKinds
    budget: BudgetConfig
    walks: dict[str, WalkSettings]
    gist_rank: int
    encoder: str  # of embed; empty: the base itself
    memory: str = "memory"
    targets: str = EACH


@dataclass(frozen=True, eq=False)
class MethodInputs:
    """The inputs of a method; those that it does not need are not there.

    tokens_N: supervised tokens of each row. mesh: devices, of whichever processes, that share a
    walk. pool and validation: features, hidden states or embeddings; subtasks_M: labels of the
    validation rows, those of several targets being different; targets_M: the number of each one's
    target, None of one alone. A row's texts are its prompt and all of it. Losses are of the pool's
    rows, under the base and under the adapter that was trained on the target; NaN where one is not
    finite.
    """

    settings: SelectionSettings
    limits: Limits
    seed: int
    tokens_N: np.ndarray
    mesh: Mesh | None = None
    pool: Rows | None = None
    validation: Rows | None = None
    subtasks_M: np.ndarray | None = None
    targets_M: np.ndarray | None = None
    pool_prompts: Sequence[str] = ()
    pool_texts: Sequence[str] = ()
    validation_prompts: Sequence[str] = ()
    validation_texts: Sequence[str] = ()
    losses_before_N: np.ndarray | None = None
    losses_after_N: np.ndarray | None = None

    def rows(self) -> tuple[Rows, Rows]:
        """The pool's rows and the validation rows, which a method that needs features has."""
        assert self.pool is not None
        assert self.validation is not None
        return self.pool, self.validation


@dataclass(frozen=True)
class Method:
    """A method by its needs (its inputs beside tokens) and its choice (None: it chooses no row).

    kind: of the pool's features. seeded: another seed gives another selection.
    reads: the settings of its own that decide what it chooses; sections: where they stand in the
    config, which no other method reads. by_cosines: it looks at cosines to validation rows alone.
    """

    needs: str
    choose: Callable[[MethodInputs], Selection] | None
    kind: Callable[[FeatureKinds], str] | None = None
    seeded: bool = False
    reads: Callable[[SelectionSettings], dict] = lambda settings: {}
    sections: tuple[str, ...] = ()
    by_cosines: bool = False


def _by_cosines(
    choose: Callable[[MethodInputs], Selection], kind: Callable[[FeatureKinds], str]
) -> Method:
    return Method(FEATURES, choose, kind, by_cosines=True)


def _walk(name: str, kind: Callable[[FeatureKinds], str], sections: tuple[str, ...]) -> Method:
    return Method(
        FEATURES,
        functools.partial(_walked, name),
        kind,
        reads=lambda settings: settings.walks[name].identity,
        sections=sections,
    )


def core_of(knowledge: KnowledgeConfig, inputs: MethodInputs) -> Core:
    """The core directions of the validation rows: of unit rows, in which several checkpoints count
    by their weights whatever the lengths of their gradients, or of rows at their former length.

    Those of several targets are made for each of them, and joined."""
    _, validation = inputs.rows()
    targets_M, parts = inputs.targets_M, [validation]
    if targets_M is not None:
        parts = [validation.take(targets_M == number) for number in np.unique(targets_M)]
    whole = knowledge.unit_rows
    return joined([core_knowledge(p if whole else p.at_former_length(), knowledge) for p in parts])


def _walked(name: str, inputs: MethodInputs) -> Selection:
    settings, (pool, _) = inputs.settings.walks[name], inputs.rows()
    core = core_of(settings.knowledge, inputs)
    stored, count = settings.graph.kind == "knn", settings.graph.neighbours
    near_NE = neighbours(pool, count, inputs.mesh)[0] if stored else None
    return gradient_walk(pool, core, inputs.limits, settings.walk, near_NE, mesh=inputs.mesh)


def _gist(inputs: MethodInputs) -> Selection:
    pool, validation = inputs.rows()
    own_MP, rank = validation.at_former_length(), inputs.settings.gist_rank
    return gist(pool, own_MP, inputs.subtasks_M, rank, inputs.limits)


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
    "rds_plus": Method(HIDDEN, lambda m: rds_plus(*m.rows(), m.limits)),
    "less": _by_cosines(lambda m: less(*m.rows(), m.subtasks_M, m.limits), _less_kind),
    "less_rr": _by_cosines(lambda m: less_rr(*m.rows(), m.limits), _less_kind),
    "bids": _by_cosines(lambda m: bids(*m.rows(), m.limits), _less_kind),
    "gist": Method(
        FEATURES,
        _gist,
        lambda kinds: "sgd",  # whatever the others take: the method's own rule
        reads=lambda settings: {"rank": settings.gist_rank},
        sections=("gist",),
    ),
    "knn_even": _by_cosines(lambda m: knn_even(*m.rows(), m.limits), _own_kind),
    "tsds_knn": _by_cosines(lambda m: tsds_knn(*m.rows(), m.limits), _own_kind),
    "tsds_kde": Method(FEATURES, lambda m: tsds_kde(*m.rows(), m.limits), _own_kind),
    "uot": _by_cosines(lambda m: uot(*m.rows(), m.limits), _own_kind),
    "coverage": _by_cosines(lambda m: coverage(*m.rows(), m.limits), _own_kind),
    "pursuit": Method(FEATURES, lambda m: pursuit(*m.rows(), m.limits), _own_kind),
    "gip": Method(FEATURES, lambda m: gip(*m.rows(), m.limits), _own_kind),
    "loss_drop": Method(LOSSES, lambda m: loss_drop(m.losses_before_N, m.losses_after_N, m.limits)),
    "embed": Method(
        EMBEDDINGS,
        lambda m: less_rr(*m.rows(), m.limits),
        reads=lambda settings: {"encoder": settings.encoder},
        sections=("embed",),
    ),
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
    """True if the field of the config can change what the method chooses."""
    if field == "selection.memory":  # where features lie changes nothing that is chosen
        return False
    if field == "selection.targets":
        return METHODS[method].needs != NOTHING
    section = field.partition(".")[0]
    owners = [name for name in METHODS if section in METHODS[name].sections]
    if owners:
        return method in owners
    if section in OF_FEATURES:
        return _makes(METHODS[method].needs, section, field)
    return section not in AFTER_CHOOSING


def _makes(needs: str, section: str, field: str) -> bool:
    """True if the field, of a section that makes features, goes into what is needed."""
    if needs == LOSSES:  # of an adapter trained by the warm-up's settings on all validation rows
        return section in ("lora", "warmup") and field != "warmup.fraction"
    if needs in (HIDDEN, EMBEDDINGS):
        return field == "grads.dtype"  # of their rows on disk
    return needs == FEATURES


def pool_kind(method: str, kinds: FeatureKinds) -> str:
    """The kind of the pool's features that a method takes, which must need features."""
    kind = METHODS[method].kind
    assert kind is not None, f"{method} needs no features"
    return kind(kinds)


def pool_kinds(methods: Sequence[str], kinds: FeatureKinds) -> list[str]:
    """The kinds that all methods with features among these take of the pool, in order."""
    return sorted({pool_kind(method, kinds) for method in needing(methods, FEATURES)})


def choosers(methods: Sequence[str]) -> list[str]:
    """The methods that choose rows."""
    return [method for method in methods if METHODS[method].choose is not None]


def walking(methods: Sequence[str]) -> list[str]:
    """The methods that walk a graph."""
    return [method for method in methods if method in SECTIONS]


def shares(method: str) -> bool:
    """True if the processes of a run share the method's work: each has a part of the pool's rows,
    and all must choose together."""
    return METHODS[method].by_cosines or method in SECTIONS


def needing(methods: Sequence[str], needs: str) -> list[str]:
    """The methods that need these inputs."""
    return [method for method in methods if METHODS[method].needs == needs]
