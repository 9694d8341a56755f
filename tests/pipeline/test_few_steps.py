"""A fine-tune of hardly any steps is said before it begins."""

import dataclasses

from g2is_jax.pipeline.input_checks import few_steps
from g2is_jax.pipeline.job import open_checked_job
from tests.support.small_job import changed, small_config


def test_a_small_budget_with_the_papers_batches(base, tmp_path, capsys):
    config = changed(small_config(base), finetune__batch_size=128, finetune__learning_rate=2e-5)
    job = open_checked_job(config, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("finetune:")]
    assert lines == [
        f"finetune: {job.limits.budget} rows in batches of 128 for 2 epochs are 2 steps, which may "
        "change little; lower finetune.batch_size, or raise finetune.learning_rate (2e-05)"
    ]
    enough = dataclasses.replace(job.settings.finetune.fit, batch_size=1, epochs=5)
    assert few_steps(enough, 2) == []
