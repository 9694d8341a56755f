"""The table of docs/reproduce.md: for each of the paper's rows the command, figure and hours."""

import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from g2is_jax.model.build import build_model
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.planning.base_models import known_decoder
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.cost_table import GB, seconds
from g2is_jax.planning.plan import BACKEND, Plan, Sizes
from g2is_jax.planning.stage_costs import stage_costs
from g2is_jax.report.published import COT_PERCENT_BY_TASK, POOL, published

CHIP, DEVICES = "h100", 1
POOL_ROWS, MEAN_TOKENS = 100_000, 512  # assumed: the paper's pool sizes are not public
TARGET_ROWS = {  # of validation and of test, as `experiments.fetch_task` writes them
    "bbh": (81, 6511),
    "gpqa": (100, 448),
    "gsm8k": (100, 1319),
    "math": (100, 5000),
    "mmlu": (285, 14042),
}
TITLES = (
    "base model",
    "target",
    "pool",
    "G2IS, LESS, full data: published (%)",
    "rows of validation, test",
    "hardware",
    "hours, estimated",
    "on v5e:2x4 (`chips=v5e_8`), tokens a chip: features, training, evaluation",
    "command",
)


def reproduce_table(configs: Mapping[str, ConfigDict], on_slice: Mapping[str, ConfigDict]) -> str:
    """Returns a line for each config, by the argument of configs/reproduce.py that names it.

    on_slice: the configs of the same rows for a slice of TPU chips.
    """
    lines = [_line(argument, config, on_slice[argument]) for argument, config in configs.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [TITLES, ("---",) * len(TITLES), *lines])


def row_plan(config: ConfigDict) -> Plan:
    """Returns the plan of one of the paper's rows, on one chip and a pool of assumed size."""
    settings, shapes = check_settings(config, BACKEND), known_decoder(config.model.checkpoint)
    sizes = Sizes(POOL_ROWS, *TARGET_ROWS[config.evaluate.tasks], MEAN_TOKENS)
    model = build_model(shapes, settings.lora, settings.base.model)
    return Plan(config, settings, model, sizes.rows(), DEVICES)


def replace_table(page: str, table: str) -> str:
    """Returns a page with this table in place of the one that it has."""
    return re.sub(r"(^\|.*\n)+", lambda _: table + "\n", page, flags=re.MULTILINE)


def _line(argument: str, config: ConfigDict, on_slice: ConfigDict) -> tuple[str, ...]:
    named = dict(part.split("=") for part in argument.split(","))
    plan, chip = row_plan(config), CHIPS[CHIP]
    hours = sum(seconds(plan, cost, chip) for cost in stage_costs(plan)) / 3600
    workdir = f"runs/{'_'.join(named.values())}"
    return (
        config.model.checkpoint.rpartition("/")[2],
        named["target"],
        named["pool"],
        _figures(config, named["pool"]),
        f"{plan.rows.validation.count:,}, {plan.rows.test.count:,}",
        f"{DEVICES} x {CHIP} of {chip.memory / GB:.0f} GB",
        f"{hours:.1f}",
        _batches(on_slice),
        f"`python -m experiments.run_all --config=configs/reproduce.py:{argument} "
        f"--workdir={workdir}`",
    )


def _batches(config: ConfigDict) -> str:
    """Returns the tokens of a batch on each chip, which the compiler has room for."""
    sizes = (
        config.grads.batch_tokens,
        config.finetune.microbatch_tokens,
        config.evaluate.batch_tokens,
    )
    return ", ".join(f"{tokens:,}" for tokens in sizes)


def _figures(config: ConfigDict, pool: str) -> str:
    def scores(file: str):
        return published(
            config.model.checkpoint, file, config.selection.budget, config.evaluate.tasks
        )

    if theirs := scores(config.data.pool):
        return ", ".join(f"{theirs[method]:.2f}" for method in ("g2is_paper", "less", "full"))
    if pool == "cot" and scores(POOL):  # the same setting but for the pool
        return f"{COT_PERCENT_BY_TASK[config.evaluate.tasks]:.2f} (G2IS alone, second-hand)"
    return "not public"
