"""What stages take on a machine: hours, bytes, whether they fit; as a table, or a line a chip."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from g2is_jax.planning.chips import CHIPS, Chip
from g2is_jax.planning.stage_costs import KINDS, Plan, Stage
from g2is_jax.runs.errors import InputError

ALL = "all"
UTILISATION = 0.4  # of a chip's published numbers, assumed
GB = 1e9
WAYS_OUT = (
    "\nTo make it fit: model.remat, fewer tokens at once (grads.batch_tokens, microbatch_tokens, "
    "evaluate.batch_tokens), or more devices with model.shard_base."
)


@dataclass(frozen=True)
class Machine:
    """A kind of device, what share of its speed each kind of work reaches, and what else it takes.

    told: where the numbers are from. overheads: seconds of each thing that a stage counts in
    `times`. runtime: bytes that the process takes before it works.
    """

    name: str
    chip: Chip
    utilisation: dict[str, float]
    told: str
    overheads: dict[str, float] = field(default_factory=dict)
    runtime: float = 0.0

    def seconds(self, stage: Stage, activations: str, devices: int) -> float:
        """Of a stage on so many devices, without compiling."""
        working = sum(
            work.seconds(self.chip, activations) / self.utilisation[kind]
            for kind, work in stage.work.items()
        )
        beside = sum(count * self.overheads.get(what, 0.0) for what, count in stage.times.items())
        return working / devices + beside

    def memory(self, stage: Stage) -> dict[str, float]:
        """Bytes on each device, by what they hold."""
        return ({"runtime": self.runtime} if self.runtime else {}) | stage.memory


def published(name: str, utilisation: float = UTILISATION) -> Machine:
    """A chip of the table, at an assumed share of its published numbers."""
    if name not in CHIPS:
        raise InputError(f"--chip={name} is unknown; choose from {', '.join(CHIPS)}")
    told = f"at {utilisation:.0%} of its published numbers (assumed)"
    return Machine(name, CHIPS[name], dict.fromkeys(KINDS, utilisation), told)


def table(plan: Plan, found: Sequence[Stage], machine: Machine, tokens: str) -> str:
    """A line for each stage, their sum, and what was assumed; `tokens` tells of the rows'."""
    activations, room = plan.settings.base.model.activations, machine.chip.memory
    lines = ["| stage | TFLOP | hours | GB a device | fits |", "| --- | --- | --- | --- | --- |"]
    total, all_fit = 0.0, True
    for stage in found:
        hours = machine.seconds(stage, activations, plan.devices) / 3600
        total += hours
        memory = machine.memory(stage)
        parts = ", ".join(f"{name} {short(part / GB)}" for name, part in memory.items())
        needed = sum(memory.values())
        all_fit &= needed <= room
        lines.append(
            f"| {stage.name} | {stage.operations / 1e12:,.0f} | {short(hours)} "
            f"| {short(needed / GB)} ({parts}) | {_yes(needed <= room)} |"
        )
    lines.append(f"| all | | {short(total)} | of {room / GB:.0f} | |")
    assumed = _assumed(plan, machine, tokens)
    return "\n".join([*lines, "", assumed]) + ("" if all_fit else WAYS_OUT)


def by_chip(plan: Plan, found: Sequence[Stage], utilisation: float, tokens: str) -> str:
    """A line for each chip of the table: hours of all stages, and the largest one's memory."""
    lines = ["| chip | hours | GB a device | fits |", "| --- | --- | --- | --- |"]
    needed = max(sum(stage.memory.values()) for stage in found)
    all_fit = True
    for name, chip in CHIPS.items():
        machine = published(name, utilisation)
        activations = plan.settings.base.model.activations
        seconds = sum(machine.seconds(stage, activations, plan.devices) for stage in found)
        all_fit &= needed <= chip.memory
        room = f"{short(needed / GB)} of {chip.memory / GB:.0f}"
        fits = _yes(needed <= chip.memory)
        lines.append(f"| {name} | {short(seconds / 3600)} | {room} | {fits} |")
    each = Machine("each", chip, {}, f"at {utilisation:.0%} of its published numbers (assumed)")
    assumed = _assumed(plan, each, tokens)
    return "\n".join([*lines, "", assumed]) + ("" if all_fit else WAYS_OUT)


def short(number: float) -> str:
    """With as many decimals as tell something."""
    if number == 0 or number >= 0.1:
        return f"{number:,.2f}" if number < 1 else f"{number:,.1f}"
    return f"{number:.2g}"


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def _assumed(plan: Plan, machine: Machine, tokens: str) -> str:
    rows = plan.rows
    return (
        f"{plan.config.model.checkpoint} on {plan.devices} x {machine.name}, {machine.told}. "
        f"{rows.pool.count:,} rows of the pool, {rows.validation.count:,} of validation, "
        f"{rows.test.count:,} of test, {tokens}. {_replies(plan)}Without compiling."
    )


def _replies(plan: Plan) -> str:
    most, reckoned = plan.settings.evaluation.evaluate.new_tokens, plan.reply_tokens
    if all(task.letters for task in plan.settings.evaluation.tasks) or not most:
        return ""
    own = f" like the longest in the test files, of at most {most:,}" if reckoned < most else ""
    return f"Replies of {reckoned:,} tokens{own}. "
