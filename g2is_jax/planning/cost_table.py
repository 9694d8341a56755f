"""The cost of a run on chips: hours, bytes and whether they fit, by stage or in a line a chip."""

from collections.abc import Sequence

from g2is_jax.planning.chips import CHIPS, Chip
from g2is_jax.planning.stage_costs import Plan, StageCost, stage_costs

ALL = "all"
UTILISATION = 0.4  # of a chip's published numbers, assumed
GB = 1e9
WAYS_OUT = (
    "\nTo make it fit: model.remat, fewer tokens at once (grads.batch_tokens, microbatch_tokens, "
    "evaluate.batch_tokens), or more devices with model.shard_base."
)


def cost_table(plan: Plan, chip: str, utilisation: float, tokens: str) -> str:
    """Returns the table of a chip's stages, or of all chips, and a sentence on what was assumed.

    chip: a name in CHIPS, or ALL. utilisation: share of a chip's published numbers that a run
    reaches. tokens: a clause on the rows' lengths.
    """
    costs = stage_costs(plan)
    if chip == ALL:
        lines, all_fit = _by_chip(plan, costs, utilisation)
    else:
        lines, all_fit = _by_stage(plan, costs, CHIPS[chip], utilisation)
    assumed = _assumed(plan, "each" if chip == ALL else chip, utilisation, tokens)
    return "\n".join([*lines, "", assumed]) + ("" if all_fit else WAYS_OUT)


def seconds(plan: Plan, cost: StageCost, chip: Chip, utilisation: float = UTILISATION) -> float:
    """Returns the seconds of a stage on the plan's devices, without compiling."""
    activations = plan.settings.base.model.activations
    on_one = sum(work.seconds(chip, activations) / utilisation for work in cost.work.values())
    return on_one / plan.devices


def _by_stage(
    plan: Plan, costs: Sequence[StageCost], chip: Chip, utilisation: float
) -> tuple[list[str], bool]:
    """Returns a line for each stage and one for their sum, and whether all of them fit."""
    lines = ["| stage | TFLOP | hours | GB a device | fits |", "| --- | --- | --- | --- | --- |"]
    total, all_fit = 0.0, True
    for cost in costs:
        hours = seconds(plan, cost, chip, utilisation) / 3600
        total += hours
        parts = ", ".join(f"{name} {_short(part / GB)}" for name, part in cost.memory.items())
        needed = sum(cost.memory.values())
        all_fit &= needed <= chip.memory
        lines.append(
            f"| {cost.name} | {cost.operations / 1e12:,.0f} | {_short(hours)} "
            f"| {_short(needed / GB)} ({parts}) | {_yes(needed <= chip.memory)} |"
        )
    lines.append(f"| all | | {_short(total)} | of {chip.memory / GB:.0f} | |")
    return lines, all_fit


def _by_chip(plan: Plan, costs: Sequence[StageCost], utilisation: float) -> tuple[list[str], bool]:
    """Returns a line for each chip (hours of all stages, memory of the largest), and whether all of
    them have room for the run."""
    lines = ["| chip | hours | GB a device | fits |", "| --- | --- | --- | --- |"]
    needed = max(sum(cost.memory.values()) for cost in costs)
    for name, chip in CHIPS.items():
        hours = sum(seconds(plan, cost, chip, utilisation) for cost in costs) / 3600
        room = f"{_short(needed / GB)} of {chip.memory / GB:.0f}"
        lines.append(f"| {name} | {_short(hours)} | {room} | {_yes(needed <= chip.memory)} |")
    return lines, all(needed <= chip.memory for chip in CHIPS.values())


def _short(number: float) -> str:
    """Returns the number with as many decimals as matter."""
    if number == 0 or number >= 0.1:
        return f"{number:,.2f}" if number < 1 else f"{number:,.1f}"
    return f"{number:.2g}"


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _assumed(plan: Plan, chip: str, utilisation: float, tokens: str) -> str:
    rows = plan.rows
    return (
        f"{plan.config.model.checkpoint} on {plan.devices} x {chip}, at {utilisation:.0%} of its "
        f"published numbers (assumed). {rows.pool.count:,} rows of the pool, "
        f"{rows.validation.count:,} of validation, {rows.test.count:,} of test, {tokens}. "
        f"{_replies(plan)}Without compiling."
    )


def _replies(plan: Plan) -> str:
    most, estimated = plan.settings.evaluation.evaluate.new_tokens, plan.reply_tokens
    if all(task.letters for task in plan.settings.evaluation.tasks) or not most:
        return ""
    own = f" like the longest in the test files, of at most {most:,}" if estimated < most else ""
    return f"Replies of {estimated:,} tokens{own}. "
