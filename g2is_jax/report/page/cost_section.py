"""The costs of a run: by method, as if it were run alone, and by kind of stage, each stage once.

Sums are exact (fsum): a page that is written again meets the stages in another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from g2is_jax.report.page.blocks import Block, Section, Table, Text

NOT_RECORDED = "not recorded"
WHOLE = "full"  # the method that trains on the whole pool
KINDS = (
    *("warmup", "features", "scores", "folded", "hidden", "embeddings", "aligned", "losses"),
    *("ordered", "selection", "finetune", "curve", "evaluate"),
)


@dataclass(frozen=True)
class FinishedStage:
    """Holds the costs of a finished stage; None where its manifest does not say.

    folder: its name, by which a stage that several methods share is known.
    """

    folder: str
    kind: str
    seconds: float
    peak_bytes: int | None
    devices: int | None


@dataclass(frozen=True)
class AdapterCost:
    """Holds all stages behind one method's adapter, for one target and seed."""

    method: str
    rows: int
    tokens: int
    stages: Sequence[FinishedStage]


def read_stage(folder: str, manifest: dict) -> FinishedStage:
    """Takes the costs of a stage from its manifest."""
    devices = manifest["counts"].get("devices")
    peak = manifest.get("peak_memory_bytes")
    return FinishedStage(folder, manifest["name"], manifest["seconds"], peak, devices)


def section(adapters: Sequence[AdapterCost], stages: Sequence[FinishedStage]) -> Section:
    """Makes a table by method and one by kind of stage.

    adapters: of every method, target and seed. stages: all that the run used.
    """
    by_method = (
        "By method, mean over targets and seeds, of all that stands behind one adapter: stages "
        "that several methods share count for each of them. Times are wall-clock seconds. Peak "
        "memory is the largest that the process had in the memory of the host, in any of the "
        "stages. Shares are of what training on the whole pool took."
    )
    by_kind = (
        "By kind of stage, each one once. Device-hours are hours times the devices that the "
        "process had."
    )
    used = list({stage.folder: stage for stage in stages}.values())
    blocks: list[Block] = [Text(by_method), _by_method(adapters), Text(by_kind), _by_kind(used)]
    return Section("Cost", blocks if adapters else blocks[2:])


def _by_method(adapters: Sequence[AdapterCost]) -> Table:
    kinds = _kinds([stage for adapter in adapters for stage in adapter.stages])
    head = ["method", "examples", "supervised tokens", *(f"{kind} (s)" for kind in kinds)]
    head += ["together (s)", f"share of {WHOLE}", "device-hours", "peak memory (GB)"]
    whole = _mean_seconds([adapter for adapter in adapters if adapter.method == WHOLE])
    lines = []
    for method in dict.fromkeys(adapter.method for adapter in adapters):
        own = [adapter for adapter in adapters if adapter.method == method]
        together = _mean_seconds(own)
        stages = [stage for adapter in own for stage in adapter.stages]
        sums = [[s.seconds for s in stages if s.kind == kind] for kind in kinds]
        lines.append(
            [
                method,
                f"{sum(adapter.rows for adapter in own) / len(own):,.0f}",
                f"{sum(adapter.tokens for adapter in own) / len(own):,.0f}",
                *(f"{fsum(some) / len(own):,.1f}" if some else "" for some in sums),
                f"{together:,.1f}",
                f"{together / whole:.1%}" if whole else "",
                _device_hours(stages, len(own)),
                _peak(stages),
            ]
        )
    return Table(head, lines)


def _mean_seconds(adapters: Sequence[AdapterCost]) -> float:
    seconds = [stage.seconds for adapter in adapters for stage in adapter.stages]
    return fsum(seconds) / len(adapters) if adapters else 0.0


def _by_kind(stages: Sequence[FinishedStage]) -> Table:
    head = ["stage", "number", "seconds", "devices", "device-hours", "peak memory (GB)"]
    lines = []
    for kind in _kinds(stages):
        own = [stage for stage in stages if stage.kind == kind]
        devices = sorted({stage.devices for stage in own if stage.devices is not None})
        seconds = f"{fsum(stage.seconds for stage in own):,.1f}"
        named = ", ".join(map(str, devices)) or NOT_RECORDED
        lines.append([kind, f"{len(own)}", seconds, named, _device_hours(own, 1), _peak(own)])
    total = f"{fsum(stage.seconds for stage in stages):,.1f}"
    lines.append(["all", f"{len(stages)}", total, "", _device_hours(stages, 1), _peak(stages)])
    return Table(head, lines)


def _kinds(stages: Sequence[FinishedStage]) -> list[str]:
    """Lists the kinds in the order of the work, others behind them."""
    found = dict.fromkeys(stage.kind for stage in stages)
    return sorted(found, key=lambda kind: KINDS.index(kind) if kind in KINDS else len(KINDS))


def _device_hours(stages: Sequence[FinishedStage], shares: int) -> str:
    known = [s.seconds * s.devices / 3600 for s in stages if s.devices is not None]
    return f"{fsum(known) / shares:,.4g}" if len(known) == len(stages) else NOT_RECORDED


def _peak(stages: Sequence[FinishedStage]) -> str:
    peaks = [stage.peak_bytes for stage in stages if stage.peak_bytes is not None]
    return f"{max(peaks) / 1e9:,.2f}" if peaks else NOT_RECORDED
