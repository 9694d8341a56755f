"""A sweep over settings: what each of them selects, from stages that are made once."""

import difflib
import itertools
import operator
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import scoring, selection_stage
from g2is_jax.pipeline.cases import cases
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.pipeline.job_stages import REUSED, RUN
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.report.sweep_table import write_sweep
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.selection.methods import AFTER_CHOOSING, choosers, reads

Sweeps = Mapping[str, dict[str, tuple] | list[dict]]  # name -> a grid, or its settings


def run(
    config: ConfigDict, workdir: epath.Path, sweeps: Sweeps, sweep: str, finetune: bool = False
) -> dict:
    """Select with every setting of the sweep, write `sweeps/NAME/` and print its table.

    finetune: also train and evaluate, and compare with the methods that read no field of the sweep.
    Returns the contents of table.json; without the table in a process that is not the first.
    """
    started = time.monotonic()
    settings = expand(sweeps, sweep)
    check_fields(sweep, settings, config)
    named = read_selection(config).methods
    methods = _methods(named, settings, finetune)
    job = open_checked_job(config, workdir, measures=finetune)
    labels = [setting_label(overrides, settings) for overrides in settings]
    variants = [
        variant_of(job, overrides | {"run.methods": ",".join(methods)}, f"sweep {sweep}, {label}")
        for label, overrides in zip(labels, settings, strict=True)
    ]
    rivals = [method for method in choosers(named) if method not in methods] if finetune else []
    scores = [scoring.score(job, *case) for case in cases(job, rivals)]
    reported, entries = [], []
    for number, (variant, overrides) in enumerate(zip(variants, settings, strict=True)):
        print(f"{sweep} {number + 1}/{len(settings)}: {labels[number]}", flush=True)
        entries += _entries(variant, labels[number], finetune)
        reported.append(
            {"setting": labels[number], "fields": overrides, "stages": _stages(variant)}
        )
    summary = {
        "sweep": sweep,
        "seconds": round(time.monotonic() - started, 3),
        "settings": reported,
    }
    sources = job.data.pool.sources
    folder = workdir / "sweeps" / sweep
    if is_first():
        summary, table = write_sweep(summary, entries, scores, sources, folder)
        print(f"\n{table}\nsweep: {folder}")
    wait_for_all("sweep written")
    return summary


def expand(sweeps: Sweeps, sweep: str) -> list[dict]:
    """The fields that each setting of a sweep changes."""
    if sweep not in sweeps:
        raise InputError(
            f"--sweep={sweep}: there is no such sweep; choose one of {', '.join(sweeps)}, or add "
            "one to configs/sweeps.py"
        )
    found = sweeps[sweep]
    if isinstance(found, dict):
        found = [
            dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())
        ]
    if not found:
        raise InputError(f"sweep {sweep} in configs/sweeps.py has no setting; give it some")
    return found


def check_fields(sweep: str, settings: Sequence[dict], config: ConfigDict) -> None:
    """Check that a sweep changes fields that there are, and has no setting twice."""
    fields = config_fields(config)
    for field in {field: None for overrides in settings for field in overrides}:
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.0)
            raise InputError(
                f"sweep {sweep} in configs/sweeps.py: there is no config field {field}; did you "
                f"mean {near[0]}?"
            )
    twice = [setting for number, setting in enumerate(settings) if setting in settings[:number]]
    if twice:
        raise InputError(f"sweep {sweep} in configs/sweeps.py has a setting twice: {twice[0]}")


def _methods(named: Sequence[str], settings: Sequence[dict], finetune: bool) -> list[str]:
    """The methods of run.methods whose selection or score the sweep can change."""
    fields = sorted({field for overrides in settings for field in overrides})
    of_tuning = [field for field in fields if field.partition(".")[0] in AFTER_CHOOSING]
    if finetune and (of_tuning or any(field.startswith("lora.") for field in fields)):
        return choosers(named)
    methods = [m for m in choosers(named) if any(reads(m, field) for field in fields)]
    if of_tuning == fields:
        raise InputError(f"{', '.join(fields)} changes no selection; sweep it with --finetune")
    if not methods:
        raise InputError(
            f"run.methods: none of {', '.join(named)} reads {', '.join(fields)}; add one that "
            "does, for instance --config.run.methods=g2is"
        )
    return methods


def setting_label(overrides: dict, settings: Sequence[dict]) -> str:
    """The fields in which the settings differ."""
    differing = {
        field: value
        for field, value in overrides.items()
        if any(other.get(field) != value for other in settings)
    }
    return ", ".join(f"{field}={value}" for field, value in (differing or overrides).items())


def variant_of(job: Job, overrides: dict, name: str) -> Job:
    """The job of one setting, with whatever is wrong with it said before any work."""
    try:
        variant = job.variant(overrides)
        variant.check_inputs()
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error
    own, others = variant.data.pool.records, job.data.pool.records
    if own is not others and not _same_lines(own.lines, others.lines):
        raise InputError(
            f"{name}: its pool has other usable rows than the config's, so that selections cannot "
            "be compared; a sweep may change everything but the pool"
        )
    return variant


def _same_lines(own: Sequence[bytes], others: Sequence[bytes]) -> bool:
    """Tell whether two pools hold the same rows, of which few are in memory at a time."""
    return len(own) == len(others) and all(map(operator.eq, own, others))


def _entries(variant: Job, label: str, finetune: bool) -> list[dict]:
    """One setting's selections, and their scores where they are asked for."""
    entries = []
    for method, target, seed in itertools.product(
        variant.settings.selection.methods, variant.data.targets, variant.settings.seeds
    ):
        chosen = selection_stage.stage(variant, method, target, seed)
        entry = {
            "method": method,
            "setting": label,
            "target": target.name,
            "seed": seed,
            "rows": chosen.rows,
            "tokens": chosen.tokens,
            "seconds": chosen.seconds,
            "folder": chosen.folder.name,
        }
        if finetune:
            entry["metrics"] = scoring.score(variant, method, target, seed)["metrics"]
        entries.append(entry)
    return entries


def _stages(variant: Job) -> dict[str, dict[str, int]]:
    """The numbers of stages, by name, that one setting has made, and that were there already."""
    return {
        how: dict(Counter(name for name, did in variant.stages.used.values() if did == how))
        for how in (RUN, REUSED)
    }
