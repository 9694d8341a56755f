"""Checks of the rows against the model and the methods, before any long work."""

import math
from collections.abc import Sequence

from etils import epath

from g2is_jax.features.projection import features_width
from g2is_jax.model.build import Model
from g2is_jax.pipeline.datasets import Dataset, Target
from g2is_jax.pipeline.settings import Settings
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.methods import (
    FEATURES,
    JOINT,
    LOSSES,
    MERGED,
    METHODS,
    SECTIONS,
    WalkSettings,
    needing,
)
from g2is_jax.training.fit import FitConfig

FEW_STEPS = 10  # of a fine-tune: fewer are said before it


def check_vocabulary(files: Sequence[Dataset], rows: int, checkpoint: epath.Path) -> None:
    """Check that every token has a row of the embedding: a lookup beyond it would not fail."""
    for dataset in files:
        largest = dataset.encoded.largest_token
        if largest >= rows:
            raise InputError(
                f"{checkpoint}: the tokenizer gives token {largest} for {dataset.path}, "
                f"the model has {rows}; use the tokenizer that belongs to the model"
            )


def check_sizes(settings: Settings, model: Model, pool: Dataset, targets: Sequence[Target]) -> None:
    """Check that features can be folded as often as asked, that cosines are enough where they are
    all that is kept, and that each walk finds enough rows."""
    width = features_width(settings.features.projection, model.gradient_shapes)
    if width % 2**settings.features.folds:
        raise InputError(
            f"grads.folds = {settings.features.folds}: rows of {width} values cannot be halved so "
            "often; lower it, or change projection.width"
        )
    if settings.features.scores_only:
        _check_scores(settings)
    if settings.selection.targets == JOINT:
        _check_joint(settings.selection.methods)
    for method, walk in settings.selection.walks.items():
        if method in settings.selection.methods:
            _check_walk(SECTIONS[method], walk, len(pool.records), targets)


def few_steps(config: FitConfig, rows: int) -> list[str]:
    """A line where a fine-tune on so many rows has hardly any steps, as a small pool's has."""
    steps = config.epochs * math.ceil(rows / config.batch_size)
    if steps >= FEW_STEPS:
        return []
    return [
        f"finetune: {rows:,} rows in batches of {config.batch_size} for {config.epochs} epochs are "
        f"{steps} steps, which may change little; lower finetune.batch_size, or raise "
        f"finetune.learning_rate ({config.optimizer.learning_rate:g})"
    ]


def _check_scores(settings: Settings) -> None:
    """Check that cosines are enough for what is asked."""
    asked = needing(settings.selection.methods, FEATURES)
    others = [name for name in asked if not METHODS[name].by_cosines]
    if others:
        able = ", ".join(name for name, method in METHODS.items() if method.by_cosines)
        raise InputError(
            f"grads.scores_only: {', '.join(others)} of run.methods cannot choose by cosines to "
            f"validation rows alone; leave them out ({able} can), or keep the features"
        )
    if settings.features.folds or settings.features.precondition != "none":
        raise InputError(
            "grads.scores_only leaves no features to fold or to whiten; set grads.folds to 0 and "
            "grads.precondition to none"
        )


def _check_joint(methods: Sequence[str]) -> None:
    """Check that the methods can choose for several targets at once."""
    if others := needing(methods, LOSSES):
        raise InputError(
            f"selection.targets = {JOINT}: {', '.join(others)} of run.methods looks at an adapter "
            f"that is trained on one target; leave it out, or set selection.targets to {MERGED}"
        )


def _check_walk(
    section: str, walk: WalkSettings, pool_rows: int, targets: Sequence[Target]
) -> None:
    graph, knowledge = walk.graph, walk.knowledge
    if graph.kind == "knn" and graph.neighbours >= pool_rows:
        raise InputError(
            f"{section}graph.neighbours: {graph.neighbours} asked, a pool of {pool_rows} "
            f"rows has at most {pool_rows - 1} for each"
        )
    for target in targets:
        most = len(target.validation.records) - knowledge.center
        if most < (knowledge.keep_value if knowledge.keep == "count" else 1):
            raise InputError(
                f"{section}knowledge asks for more components than the {most} that "
                f"{target.validation.path} can give; give more validation rows, or "
                f"change {section}knowledge.center or {section}knowledge.keep_value"
            )
