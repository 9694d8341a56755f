"""Everything that passes over the rows: gradient features, or cosines alone, and hidden states."""

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import features_stage, hidden_stage, scores_stage
from g2is_jax.pipeline.job import open_checked_job


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The features that the methods need, of each seed; returns the stages' folders."""
    job = open_checked_job(config, workdir, measures=False)
    pool, targets = job.data.pool, job.data.targets
    datasets = [pool, *(target.validation for target in targets)]
    folders = []
    for seed in job.settings.seeds:
        if job.settings.features.scores_only:
            for kind in features_stage.kinds_of(job, pool):
                for target in targets:
                    folders += scores_stage.stages(job, kind, target, seed)
            continue
        for dataset in datasets:
            for kind in features_stage.kinds_of(job, dataset):
                folders += features_stage.stages(job, dataset, kind, seed)
    if job.settings.features.hidden_states:
        folders += [hidden_stage.stage(job, dataset) for dataset in datasets]
    return folders
