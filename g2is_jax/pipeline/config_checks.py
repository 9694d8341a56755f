"""Checks of a config that no room's own settings make: values, and the files that it names."""

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.bad_rows import POLICIES
from g2is_jax.data.chat import TEMPLATES
from g2is_jax.data.hub_sets import place_of_rows
from g2is_jax.features.gradients import KINDS
from g2is_jax.pipeline.fields import BUILT_IN, config_fields, file_names, target_name
from g2is_jax.runs.errors import InputError

ADAPTER, LAYERS = "adapter", "layers"  # of grads.of
CHOICES = {
    "data.bad_rows": POLICIES,
    "data.overlap": ("report", "remove"),
    "evaluate.adapter": ("last", "best"),
    "model.chat_template": ("auto", *TEMPLATES),
    "grads.kind": KINDS,
    "grads.less_kind": KINDS,
    "grads.validation_kind": KINDS,
    "grads.precondition": ("none", "pool", "diagonal"),
    "paper.kind": KINDS,
    "grads.of": (ADAPTER, LAYERS),
}
AT_LEAST = {
    "model.max_length": 2,
    "lora.rank": 1,
    "world.validation_rows": 1,
    "world.test_rows": 1,
    "grads.batch_tokens": 0,
    "grads.checkpoints": 0,
    "grads.chunk_rows": 1,
    "grads.folds": 0,
    "grads.layer_width": 1,
    "projection.seed": 0,
    "warmup.seed": 0,
}
FROM_0_TO_1 = ("lora.dropout", "world.wrong", "world.duplicates", "warmup.fraction")
BELOW_1 = ("lora.dropout",)
ABOVE_0 = ("lora.alpha", "world.scale", "warmup.fraction", "grads.damping")


def check_values(config: ConfigDict) -> None:
    """Check the fields that no room's own settings check."""
    fields = config_fields(config)
    for field, known in CHOICES.items():
        if fields[field] not in known:
            raise InputError(
                f"{field} = {fields[field]!r} is unknown; choose one of {', '.join(known)}"
            )
    for field, least in AT_LEAST.items():
        if fields[field] < least:
            raise InputError(f"{field} = {fields[field]}; it must be at least {least}")
    for field in FROM_0_TO_1:
        if not 0 <= fields[field] <= 1:
            raise InputError(f"{field} = {fields[field]}; it must be from 0 to 1")
    for field in ABOVE_0:
        if not fields[field] > 0:
            raise InputError(f"{field} = {fields[field]}; it must be above 0")
    for field in BELOW_1:
        if not fields[field] < 1:
            raise InputError(f"{field} = {fields[field]}; it must be below 1")
    if config.evaluate.new_tokens >= config.model.max_length:
        raise InputError(
            f"evaluate.new_tokens = {config.evaluate.new_tokens} leaves no room for a prompt "
            f"within model.max_length = {config.model.max_length}; lower the one or raise the other"
        )
    curves = config.evaluate.curves or config.evaluate.adapter == "best"
    if curves and not config.finetune.keep_epochs:
        raise InputError(
            "evaluate.curves and evaluate.adapter = 'best' need the adapter of each epoch; "
            "set finetune.keep_epochs"
        )


def check_files(config: ConfigDict, measures: bool) -> None:
    """Check that every file that the config names is there, before the first one is read.

    measures: whether test rows are needed; else data.test may be empty.
    """
    validation, test, shots_files = (
        tuple(filter(None, file_names(text)))
        for text in (config.data.validation, config.data.test, config.evaluate.shots_files)
    )
    built_in = config.data.pool == BUILT_IN
    if not config.model.checkpoint:
        raise InputError("model.checkpoint is empty; give a Hugging Face folder, or skills")
    if not config.data.pool:
        raise InputError("data.pool is empty; give a file of rows, or skills")
    if not validation and not test and not built_in:
        raise InputError(
            "data.validation is empty; give a file of rows that show what is wanted, one for each "
            "target" + (", and data.test, one of rows that measure it" if measures else "")
        )
    if len(validation) != len(test) and (test or measures):
        raise InputError(
            f"data.validation names {len(validation)} files and data.test {len(test)}; "
            "give one of each for every target"
        )
    _check_target_names(validation)
    pool = () if built_in else (config.data.pool,)
    for name in (*pool, *validation, *test, *shots_files):
        place = place_of_rows(name)
        if isinstance(place, epath.Path) and not place.exists():
            raise InputError(
                f"{place}: no such file; check data.pool, data.validation, data.test, "
                'evaluate.shots_files (names with commas: as a list ["a,b.jsonl"], or in @FILE)'
            )


def _check_target_names(validation: tuple[str, ...]) -> None:
    """Check that every target has a name that a folder can have, and that no other has."""
    names = [target_name(place_of_rows(file)) for file in validation]
    for file, name in zip(validation, names, strict=True):
        if name in ("", ".", ".."):
            raise InputError(
                f"data.validation: the target of {file} would be called {name!r}, which is no name "
                "of a folder; rename the file"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"data.validation: two targets would be called {twice[0]!r}, after their files; "
            "rename one of the files"
        )
