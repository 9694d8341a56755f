"""The cost of a run on a chip, in hours and memory, estimated without any file: a table by stage.

    python -m experiments.estimate --config=configs/reproduce.py:model=llama31_8b,target=gsm8k \\
        --chip=h100 --devices=1 --pool_rows=100000 --mean_tokens=512 --validation_rows=100 \\
        --test_rows=1319

Shapes are enough: no weights, no tokenizer, no accelerator. Rows without a flag are counted in the
config's files; without --mean_tokens every row counts as long as model.max_length, and each reply
as long as evaluate.new_tokens. Nothing is measured: hours are those of the chip's published numbers
at an assumed utilisation. Where the files are there, `run_all --dry_run` counts and measures the
rows.
"""

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from experiments.launch import run_or_tell
from g2is_jax.data.files import read_records
from g2is_jax.model.build import build_model
from g2is_jax.pipeline.command_line import parse_config
from g2is_jax.pipeline.fields import BUILT_IN, parts
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.cost_table import ALL, UTILISATION, cost_table
from g2is_jax.planning.dry_run import decoder
from g2is_jax.planning.plan import Plan, Sizes
from g2is_jax.runs.errors import InputError


def run(
    config: ConfigDict, chip: str, devices: int, utilisation: float, sizes: dict[str, int | None]
) -> str:
    """Returns the table; sizes: fields of `Sizes`, None for those to be read from the config."""
    settings = check_settings(config)
    model = build_model(decoder(config.model.checkpoint), settings.lora, settings.base.model)
    found = _sizes(config, sizes)
    plan = Plan(config, settings, model, found.rows(), devices)
    tokens = f"{found.mean_tokens:,} tokens each; memory for rows of {config.model.max_length:,}"
    return cost_table(plan, chip, utilisation, tokens)


def _sizes(config: ConfigDict, sizes: dict[str, int | None]) -> Sizes:
    """The sizes with a value, and the rest from the config and its files."""
    files = {
        "pool_rows": config.data.pool,
        "validation_rows": config.data.validation,
        "test_rows": config.data.test,
    }
    found = {"mean_tokens": config.model.max_length}
    for field, named in files.items():
        if sizes[field] is None:
            found[field] = _rows(named, field)
    return Sizes(**found | {field: value for field, value in sizes.items() if value is not None})


def _rows(named: str, field: str) -> int:
    files = [] if named == BUILT_IN else list(map(epath.Path, parts(named)))
    missing = [file for file in files if not file.exists()]
    if missing or not files:
        what = f"{missing[0]}: no such file" if missing else f"no file to count {field} in"
        raise InputError(f"{what}; give --{field}")
    return sum(len(read_records(file)) for file in files)


def main() -> None:
    """Parse the flags and print the table; a user's mistake ends in one line."""
    config = config_flags.DEFINE_config_file("config", lock_config=True)
    chips = [*CHIPS, ALL]
    chip = flags.DEFINE_enum("chip", None, chips, "Of published numbers.", required=True)
    devices = flags.DEFINE_integer("devices", None, "Chips.", lower_bound=1, required=True)
    share = flags.DEFINE_float("utilisation", UTILISATION, "Assumed.", 0.01, 1.0)
    sizes = {
        field: flags.DEFINE_integer(field, None, Sizes.__doc__)
        for field in Sizes.__dataclass_fields__
    }
    flags.mark_flag_as_required("config")

    def report(_) -> None:
        asked = {field: flag.value for field, flag in sizes.items()}
        print(run(config.value, chip.value, devices.value, share.value, asked))

    run_or_tell(report, parse_config)


if __name__ == "__main__":
    main()
