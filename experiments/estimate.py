"""How long a run would take on a chip and whether it fits, before there is one: a table by stage.

    python -m experiments.estimate --config=configs/llama31_8b_gsm8k.py --chip=h100 --devices=1 \\
        --pool_rows=100000 --mean_tokens=512 --validation_rows=100 --test_rows=1319

Reckoned from shapes: no weights, no tokenizer, no accelerator. Rows that are not given are counted
in the config's files; without --mean_tokens every row counts as long as model.max_length, and each
reply as long as evaluate.new_tokens. Nothing is measured: hours are those of the chip's published
numbers at an assumed utilisation.
"""

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from configs.base_models import BASE_MODELS
from experiments.launch import parse_config, run_or_tell
from experiments.settings import BUILT_IN, check_settings, paths
from experiments.stage_costs import Plan, Sizes, Stage, stages
from g2is_jax.data.records import read_records
from g2is_jax.data.skills import BASE_FOLDER
from g2is_jax.model.build import build_model
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import decoder_config, read_config
from g2is_jax.runs.chips import CHIPS
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store

UTILISATION = 0.4  # of a chip's published numbers, assumed
GB = 1e9
WAYS_OUT = (
    "\nTo make it fit: model.remat, fewer tokens at once (grads.batch_tokens, microbatch_tokens, "
    "evaluate.batch_tokens), or more devices with model.shard_base."
)


def run(
    config: ConfigDict, chip: str, devices: int, utilisation: float, given: dict[str, int | None]
) -> str:
    """The table; `given`: fields of `Sizes`, None for those to be read from the config."""
    settings = check_settings(config)
    model = build_model(decoder(config.model.checkpoint), settings.lora, settings.model)
    plan = Plan(config, settings, model, sizes(config, given), devices)
    return table(plan, stages(plan), chip, utilisation)


def decoder(checkpoint: str) -> DecoderConfig:
    """Of a folder, of the built-in base, or of a hub id whose shapes are known here."""
    if checkpoint == BUILT_IN:
        return read_config(BASE_FOLDER)
    if in_object_store(checkpoint) or (checkpoint and epath.Path(checkpoint).is_dir()):
        return read_config(epath.Path(checkpoint))
    if checkpoint not in BASE_MODELS:
        raise InputError(
            f"model.checkpoint = {checkpoint!r} is neither a folder nor one of "
            f"{', '.join(BASE_MODELS)}; a folder with its config.json alone is enough"
        )
    return decoder_config(BASE_MODELS[checkpoint], f"configs/base_models.py: {checkpoint}")


def sizes(config: ConfigDict, given: dict[str, int | None]) -> Sizes:
    """What was given, and the rest from the config and its files."""
    files = {
        "pool_rows": config.data.pool,
        "validation_rows": config.data.validation,
        "test_rows": config.data.test,
    }
    found = {"mean_tokens": config.model.max_length}
    for field, named in files.items():
        if given[field] is None:
            found[field] = _rows(named, field)
    return Sizes(**found | {field: value for field, value in given.items() if value is not None})


def _rows(named: str, field: str) -> int:
    files = [] if named == BUILT_IN else paths(named)
    missing = [file for file in files if not file.exists()]
    if missing or not files:
        what = f"{missing[0]}: no such file" if missing else f"no file to count {field} in"
        raise InputError(f"{what}; give --{field}")
    return sum(len(read_records(file)) for file in files)


def table(plan: Plan, found: list[Stage], chip: str, utilisation: float) -> str:
    """A line for each stage, their sum, and what was assumed."""
    activations, room = plan.settings.model.activations, CHIPS[chip].memory
    lines = ["| stage | TFLOP | hours | GB a device | fits |", "| --- | --- | --- | --- | --- |"]
    total, all_fit = 0.0, True
    for stage in found:
        hours = stage.hours(CHIPS[chip], activations, plan.devices, utilisation)
        total += hours
        operations = (stage.operations + stage.float32_operations) / 1e12
        parts = ", ".join(f"{name} {part / GB:.1f}" for name, part in stage.memory.items())
        needed = sum(stage.memory.values())
        fits = needed <= room
        all_fit &= fits
        lines.append(
            f"| {stage.name} | {operations:,.0f} | {hours:.2f} | {needed / GB:.1f} ({parts}) "
            f"| {'yes' if fits else 'no'} |"
        )
    lines.append(f"| all | | {total:.2f} | of {room / GB:.0f} | |")
    assumed = _assumed(plan, found, chip, utilisation)
    return "\n".join([*lines, "", assumed]) + ("" if all_fit else WAYS_OUT)


def _assumed(plan: Plan, found: list[Stage], chip: str, utilisation: float) -> str:
    s = plan.sizes
    alone = ", ".join(stage.name for stage in found if not stage.shared)
    return (
        f"{plan.config.model.checkpoint} on {plan.devices} x {chip}, at {utilisation:.0%} of its "
        f"published numbers (assumed). {s.pool_rows:,} rows of the pool, {s.validation_rows:,} of "
        f"validation, {s.test_rows:,} of test, {s.mean_tokens:,} tokens each; memory for rows of "
        f"{plan.config.model.max_length:,}. By one device alone: {alone}."
    )


def main() -> None:
    """Parse the flags and print the table; a user's mistake ends in one line."""
    config = config_flags.DEFINE_config_file("config", lock_config=True)
    chip = flags.DEFINE_enum("chip", None, list(CHIPS), "Of published numbers.", required=True)
    devices = flags.DEFINE_integer("devices", None, "Chips.", lower_bound=1, required=True)
    share = flags.DEFINE_float("utilisation", UTILISATION, "Assumed.", 0.01, 1.0)
    given = {
        field: flags.DEFINE_integer(field, None, Sizes.__doc__)
        for field in Sizes.__dataclass_fields__
    }
    flags.mark_flag_as_required("config")

    def report(_) -> None:
        asked = {field: flag.value for field, flag in given.items()}
        print(run(config.value, chip.value, devices.value, share.value, asked))

    run_or_tell(report, parse_config)


if __name__ == "__main__":
    main()
