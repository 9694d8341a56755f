"""The cost of a run, estimated from a config and numbers of rows, where no file need be there."""

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import read_rows
from g2is_jax.data.hub_sets import place_of_rows
from g2is_jax.data.row_fields import read_columns
from g2is_jax.model.build import build_model
from g2is_jax.pipeline.fields import BUILT_IN, file_names
from g2is_jax.pipeline.model_limits import within_limits
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.planning.base_models import decoder
from g2is_jax.planning.cost_table import cost_table
from g2is_jax.planning.plan import BACKEND, Plan, Sizes
from g2is_jax.runs.errors import InputError


def run(
    config: ConfigDict, chip: str, devices: int, utilisation: float, sizes: dict[str, int | None]
) -> str:
    """Returns the table of a chip's stages, or a line for each chip.

    sizes: fields of `Sizes`, None for those to be read from the config and its files.
    """
    shapes = decoder(config.model.checkpoint)
    settings = within_limits(check_settings(config, BACKEND), shapes.max_position_embeddings)
    model = build_model(shapes, settings.lora, settings.base.model)
    length = settings.data.max_length
    found = _sizes(config, sizes, length)
    plan = Plan(config, settings, model, found.rows(), devices)
    tokens = f"{found.mean_tokens:,} tokens each; memory for rows of {length:,}"
    return cost_table(plan, chip, utilisation, tokens)


def _sizes(config: ConfigDict, sizes: dict[str, int | None], length: int) -> Sizes:
    """Returns the sizes with a value, and the rest from the config and its files."""
    files = {
        "pool_rows": config.data.pool,
        "validation_rows": config.data.validation,
        "test_rows": config.data.test,
    }
    found = {"mean_tokens": length}
    for field, named in files.items():
        if sizes[field] is None:
            found[field] = _rows(named, field, config.data)
    return Sizes(**found | {field: value for field, value in sizes.items() if value is not None})


def _rows(named: str, field: str, data: ConfigDict) -> int:
    """Returns the number of rows in the files that a field of the config names."""
    names = [named] if field == "pool_rows" else file_names(named)
    files = [place_of_rows(name) for name in names if name and name != BUILT_IN]
    missing = [file for file in files if isinstance(file, epath.Path) and not file.exists()]
    if missing or not files:
        what = f"{missing[0]}: no such file" if missing else f"no file to count {field} in"
        raise InputError(f"{what}; give --{field}")
    bad_rows = data.bad_rows if field == "pool_rows" else "stop"
    columns = read_columns(data.columns)
    return sum(len(read_rows(file, bad_rows, columns=columns).records) for file in files)
