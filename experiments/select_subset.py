"""Selection: the rows of the pool that a method chooses for a target within the budget."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments import extract_features, warmup
from experiments.job import BY_FEATURES, Job, Target
from experiments.launch import launch
from g2is_jax.runs.manifest import read_manifest, stage_hash, write_atomic
from g2is_jax.selection.graph import neighbours
from g2is_jax.selection.influence import less, less_rr
from g2is_jax.selection.knowledge import core_knowledge
from g2is_jax.selection.selection import Selection, everything, longest, random_rows, without
from g2is_jax.selection.walk import gradient_walk


@dataclass(frozen=True)
class Chosen:
    """A finished selection; `seconds` counts every stage behind it, as if it were run alone."""

    folder: epath.Path
    rows: list[int]
    tokens: int
    seconds: float


def run(config: ConfigDict, workdir: epath.Path) -> list[Chosen]:
    """The selection of each method, target and seed, also shown under `selections/`."""
    job = Job(config, workdir)
    job.check()
    return [
        stage(job, method, target, seed)
        for seed in job.seeds
        for method in job.methods
        if method != "none"
        for target in job.targets
    ]


def stage(job: Job, method: str, target: Target, seed: int) -> Chosen:
    """Choose rows, write `selection.jsonl` and `selected.jsonl`, and show them."""
    stages = _feature_stages(job, method, target, seed)

    def build(folder: epath.Path) -> dict:
        selection = _select(job, method, target, seed)
        _write(job, folder, selection)
        return {"rows": len(selection.picks), **selection.summary}

    identity: dict = {"method": method, "budget": dataclasses.asdict(job.settings.budget)}
    if method == "random":
        identity["seed"] = seed
    if method in BY_FEATURES:
        identity["walk"] = _walk_identity(job, method)
        identity["checkpoints"] = job.settings.checkpoints
    inputs = {name: stage_hash(folder) for name, folder in stages.items()}
    inputs |= {"pool": job.pool.digest} if stages else _text_inputs(job)
    label = f"{method} {target.name} seed {seed}" if stages else f"{method} seed {seed}"
    folder = job.run_stage("selection", label, identity, inputs, build)
    _show(job, folder, method, target, seed)
    rows = [pick["position"] for pick in _read_picks(folder)]
    seconds = sum(read_manifest(f)["seconds"] for f in [*stages.values(), folder])
    return Chosen(folder, rows, int(job.pool.tokens_N[rows].sum()), seconds)


def _feature_stages(job: Job, method: str, target: Target, seed: int) -> dict[str, epath.Path]:
    if method not in BY_FEATURES:
        return {}
    found = {"warmup": warmup.stage(job, seed)}
    datasets = {"features": job.pool, "validation": target.validation}
    for name, dataset in datasets.items():
        folders = extract_features.stages(job, dataset, job.kind(dataset, method), seed)
        found |= {f"{name}-{number}": folder for number, folder in enumerate(folders)}
    return found


def _text_inputs(job: Job) -> dict[str, str]:
    """What the usable rows and their token counts depend on, where no features do."""
    text = {key: str(job.model_identity[key]) for key in ("template", "max_length")}
    small = {n: d for n, d in job.checkpoint_digest.items() if not n.endswith(".safetensors")}
    return {"pool": job.pool.digest, **text, **small}


def _walk_identity(job: Job, method: str) -> dict:
    settings = job.settings
    if method not in settings.walk:
        return {}
    return {
        "knowledge": dataclasses.asdict(settings.knowledge[method]),
        "graph": dataclasses.asdict(settings.graph[method]),
        "walk": dataclasses.asdict(settings.walk[method]),
    }


def _select(job: Job, method: str, target: Target, seed: int) -> Selection:
    limits = job.limits
    if method == "full":
        return everything(limits)
    if method == "random":
        return random_rows(limits, seed)
    if method == "length":
        return longest(job.pool.tokens_N, limits)
    pool = extract_features.load(job, job.pool, job.kind(job.pool, method), seed)
    kind = job.kind(target.validation, method)
    validation = extract_features.load(job, target.validation, kind, seed)
    limits = without(limits, ~extract_features.finite(pool))
    finite_M = extract_features.finite(validation)
    pool_NP = extract_features.units(pool)
    if method in ("less", "less_rr"):
        validation_MP = extract_features.units(validation)[finite_M]
        if method == "less_rr":
            return less_rr(pool_NP, validation_MP, limits)
        subtasks = np.array([record.subtask for record in target.validation.records])
        return less(pool_NP, validation_MP, subtasks[finite_M], limits)
    settings = job.settings
    validation_MP = extract_features.unnormalised(validation)[finite_M]
    core = core_knowledge(validation_MP, settings.knowledge[method])
    graph = settings.graph[method]
    near_NE = neighbours(pool_NP, graph.neighbours)[0] if graph.kind == "knn" else None
    return gradient_walk(pool_NP, core, limits, settings.walk[method], near_NE)


def _write(job: Job, folder: epath.Path, selection: Selection) -> None:
    """`selection.jsonl` tells why, `selected.jsonl` holds the rows as they stand in the pool.

    `row` counts the rows of the pool's file from 0; `position` counts its usable rows.
    """
    lines = []
    for pick in selection.picks:
        record = job.pool.records[pick.row]
        told = {"row": record.row, "id": record.id, "position": pick.row, "source": record.source}
        told |= {key: value for key, value in vars(pick).items() if key != "row"}
        lines.append(json.dumps(told | {"tokens": int(job.pool.tokens_N[pick.row])}) + "\n")
    rows = [job.pool.records[pick.row].line + "\n" for pick in selection.picks]
    write_atomic(folder / "selection.jsonl", "".join(lines))
    write_atomic(folder / "selected.jsonl", "".join(rows))


def _read_picks(folder: epath.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "selection.jsonl").read_text().splitlines()]


def _show(job: Job, folder: epath.Path, method: str, target: Target, seed: int) -> None:
    """Copy a selection to where people look: `selections/METHOD-SEED[/TARGET]/`."""
    place = job.workdir / "selections" / f"{method}-{seed}"
    place = place / target.name if len(job.targets) > 1 else place
    place.mkdir(parents=True, exist_ok=True)
    for name in ("selection.jsonl", "selected.jsonl"):
        write_atomic(place / name, (folder / name).read_bytes())


if __name__ == "__main__":
    launch(run)
