"""Gathers the sections of the report page from the finished stages of a job, and writes it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.records import prompt
from g2is_jax.evaluation.compare import SUBJECT
from g2is_jax.features.rows import unit_length
from g2is_jax.pipeline import (
    finetune_stage,
    method_inputs,
    scoring,
    selection_stage,
)
from g2is_jax.pipeline.cases import cases, label, shown_at
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.pipeline.selection_files import WHY, read_why
from g2is_jax.report.composition import composition
from g2is_jax.report.page import (
    cost_section,
    directions,
    learning_curves,
    left_out,
    overview,
    reasons,
    results,
    similarities,
    sources,
    walk_map,
)
from g2is_jax.report.page.blocks import Page
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.report.page.html import html
from g2is_jax.report.page.markdown import markdown
from g2is_jax.report.page.reasons import shortened
from g2is_jax.report.published import published
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest, stage_hash
from g2is_jax.runs.processes import alone, is_first, wait_for_all
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.core import Core
from g2is_jax.selection.methods import JOINT, MERGED, choosers, core_of, walking

REPORT, HTML = "report", "report.html"  # folder of a work folder, and a file there
SAMPLE_ROWS, SAMPLE_SEED = 1_000, 0  # of the pool, for similarities and map
MOST_SOURCES = 12  # named in the first section


def run(config: ConfigDict, workdir: epath.Path) -> epath.Path:
    """Write the page of a finished run and print its path; an unfinished stage is an error."""
    if not (workdir / "stages").exists():
        raise InputError(
            f"{workdir}: no run is here; run experiments.run_all with this --workdir first"
        )
    job = open_job(config, workdir, builds=False)
    scores = scoring.score_all(job)
    if is_first():
        with alone():
            print(f"report: {write(job, scores)}")
    wait_for_all("page written")
    return workdir / REPORT / HTML


def write(job: Job, scores: list[dict]) -> epath.Path:
    """Write the page, as HTML and as Markdown; returns the HTML's path."""
    walks, pool = list(_walks(job)), job.data.pool
    chosen = composition(selection_stage.entries(job), pool.sources)
    tunes = list(_tunes(job))
    stages = [
        cost_section.read_stage(folder.name, read_manifest(folder)) for folder in job.stages.used
    ]
    sections = [
        overview.section(_facts(job)),
        left_out.section(str(pool.path), pool.counts.get("bad_rows", [])),
        results.section(scores, _published(job)),
        cost_section.section([cost for cost, _ in tunes], stages),
        learning_curves.section([curve for _, curve in tunes]),
        directions.section(walks),
        similarities.section(walks),
        sources.section(chosen),
        walk_map.section(walks),
        reasons.section(walks),
    ]
    names = ", ".join(target.name for target in job.data.targets)
    page = Page(f"Selection for {names}", [section for section in sections if section])
    folder = job.stages.workdir / REPORT
    make_folder(folder)
    write_atomic(folder / HTML, html(page))
    write_atomic(folder / "report.md", markdown(page))
    return folder / HTML


def _published(job: Job) -> dict[str, Mapping[str, float]]:
    """The figures that others published for the same setting, by target."""
    config = job.config
    share = config.selection.budget if config.selection.unit == "fraction" else None
    return {
        target.name: published(config.model.checkpoint, config.data.pool, share, task.name)
        for target, task in zip(job.data.targets, job.settings.evaluation.tasks, strict=True)
    }


def _facts(job: Job) -> dict[str, str]:
    """The run in words, for the first section."""
    config, pool = job.config, job.data.pool
    counts = Counter(pool.sources).most_common()
    named = ", ".join(f"{source} ({count:,})" for source, count in counts[:MOST_SOURCES])
    more = f" and {len(counts) - MOST_SOURCES} more" if len(counts) > MOST_SOURCES else ""
    tune = config.finetune
    targets = [
        f"{target.name} ({len(target.validation.records):,} validation rows, "
        f"{len(target.test_records):,} test rows)"
        for target in job.data.targets
    ]
    manifests = [read_manifest(folder) for folder in job.stages.used]
    return {
        "checkpoint": f"{config.model.checkpoint} {config.model.revision}".strip(),
        "pool": f"{pool.path}: {len(pool.records):,} usable rows, {pool.dropped:,} dropped without "
        f"a supervised token, {pool.truncated:,} cut at {job.settings.data.max_length:,} tokens",
        "sources": f"{len(counts)}: {named}{more}",
        "targets": "; ".join(targets),
        "budget": f"{job.limits.budget:,} {job.cost_unit}",
        "methods": ", ".join(job.settings.selection.methods),
        "seeds": ", ".join(map(str, job.settings.seeds)),
        "fine-tune": f"{tune.epochs} epochs, batch {tune.batch_size}, learning rate "
        f"{tune.learning_rate:g}, LoRA r={config.lora.rank}, alpha={config.lora.alpha:g}",
        "versions": _all_of([manifest["versions"] for manifest in manifests]),
        "commit": _all_of([{"": manifest["commit"]} for manifest in manifests]),
        "finished": max((manifest["finished"] for manifest in manifests), default=""),
    }


def _all_of(values: list[dict]) -> str:
    """Every value that the stages name, once: `jax 0.10.2 and 0.11.0, numpy 2.4`."""
    found: dict[str, dict[str, None]] = {}
    for named in values:
        for name, value in named.items():
            found.setdefault(name, {})[value or "not recorded"] = None
    return ", ".join(f"{name} {' and '.join(values)}".strip() for name, values in found.items())


def _tunes(job: Job) -> Iterator[tuple[cost_section.AdapterCost, learning_curves.Curve]]:
    """The cost of each fine-tune, with all stages behind it, and its learning curve."""
    measured = validation_curves(job.stages.workdir)
    for method, target, seed in cases(job, choosers(job.settings.selection.methods)):
        chosen = selection_stage.stage(job, method, target, seed)
        tuned = finetune_stage.stage(job, chosen, label(method, target, seed), seed)
        behind = [*chosen.behind, chosen.folder, tuned]
        stages = [cost_section.read_stage(folder.name, read_manifest(folder)) for folder in behind]
        steps = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
        losses, tokens = ([step[name] for step in steps] for name in ("loss", "tokens"))
        validation = measured.get((stage_hash(tuned), target.validation.digest), [])
        epochs = job.settings.finetune.fit.epochs
        yield (
            cost_section.AdapterCost(method, len(chosen.rows), chosen.tokens, stages),
            learning_curves.Curve(method, target.name, epochs, losses, tokens, validation),
        )


def validation_curves(workdir: epath.Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """The validation losses of the stages named curve-*, by fine-tune and by validation rows."""
    found = {}
    for file in (workdir / "stages").glob("curve-*/curve.json"):
        if file.parent.suffix == ".part":  # not finished
            continue
        inputs = read_manifest(file.parent)["inputs"]
        points = [(p["epoch"], p["validation_loss"]) for p in json.loads(file.read_text())]
        found[inputs["adapter"], inputs["validation"]] = points
    return found


def _walks(job: Job) -> Iterator[Walk]:
    """The walk of g2is, or of another method if g2is is not there, at the first seed."""
    walks = walking(job.settings.selection.methods)
    if not walks:
        return
    method = SUBJECT if SUBJECT in walks else walks[0]
    joint = job.settings.selection.targets == JOINT
    for target in job.data.targets[:1] if joint else job.data.targets:
        yield _walk(job, method, target, job.settings.seeds[0])


def _walk(job: Job, method: str, target: Target, seed: int) -> Walk:
    """A finished walk, with the rows it chose and some of those it chose from."""
    settings = job.settings.selection.walks[method]
    found = method_inputs.gather(job, method, target, seed)
    pool, validation = found.rows()
    core = core_of(settings.knowledge, found)
    chosen = selection_stage.by_method(job, method, target, seed).folder
    picks = read_why(chosen)
    named = " and ".join(own.name for own in method_inputs.targets_of(job, target))
    rows = [pick["position"] for pick in picks]
    draws = np.random.default_rng(SAMPLE_SEED)
    count = len(job.data.pool.records)
    sample_S = np.sort(draws.choice(count, min(count, SAMPLE_ROWS), replace=False))
    sample_SP = unit_length(pool[sample_S])
    merged = job.settings.selection.targets == MERGED  # then what is shown is not this walk
    place = chosen if merged else shown_at(job, selection_stage.SHOWN, method, target, seed)
    return Walk(
        method,
        named,
        seed,
        settings.walk,
        core=core,
        picks=picks,
        prompts_K=[prompt(job.data.pool.records[row]) for row in rows],
        directions_C=_directions(job, method, target, seed, core),
        chosen_KP=unit_length(pool[np.array(rows[: walk_map.MOST_POINTS], int)]),
        sample_SP=sample_SP[sample_SP.any(axis=1)],  # rows that are not finite are stored as zeros
        validation_MP=unit_length(validation[:]),
        listing=str((place / WHY).relative_to(job.stages.workdir)),
    )


def _directions(job: Job, method: str, target: Target, seed: int, core: Core) -> list[str]:
    """A name for each core direction: a component's weight, or a validation row."""
    if job.settings.selection.walks[method].knowledge.anchors == "components":
        return [f"{weight:.1%} of the weight" for weight in core.weights_C]
    names = []
    for own in method_inputs.targets_of(job, target):
        features = method_inputs.rows_of(job, own.validation, method, seed)
        for record in own.validation.records.take(np.flatnonzero(features.finite_N)):
            names.append(f"validation row {record.id}: {shortened(prompt(record))}")
    return names
