"""A fine-tune of few rows: that it has hardly any steps is said, and its shapes are small."""

import dataclasses

import pytest

from g2is_jax.data.batches import row_lengths, training_padding
from g2is_jax.pipeline.adapter_training import shapes_of
from g2is_jax.pipeline.input_checks import few_steps
from g2is_jax.pipeline.job import open_checked_job, open_job
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


@pytest.mark.parametrize("packed", [False, True])
def test_few_rows_are_not_padded_to_a_whole_step(base, tmp_path, packed):
    """The paper's batches of 128, of which a small pool's warm-up fills a fifth or less."""
    few = 8
    config = changed(small_config(base), finetune__batch_size=64, finetune__microbatch_tokens=4096)
    job = open_job(changed(config, world__scale=0.1), tmp_path, measures=False)
    pool, fit = job.data.pool, job.settings.finetune.fit
    lengths = row_lengths(pool.encoded)[:few]
    shapes = shapes_of(pool, fit, few, 1, packed)
    assert training_padding(lengths, fit.batch_size, 0, 1, shapes) < 0.6
    whole = shapes_of(pool, fit, fit.batch_size, 1, packed)
    assert training_padding(lengths, fit.batch_size, 0, 1, whole) > 0.6
