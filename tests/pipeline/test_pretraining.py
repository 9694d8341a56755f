"""The built-in base's pre-training: what it leaves, and that a run that was stopped goes on."""

import json

import numpy as np
import pytest
from etils import epath

from configs import skills_base
from g2is_jax.model.build import load_model
from g2is_jax.model.lora import NO_ADAPTER
from g2is_jax.pipeline import pretraining
from tests.support.small_job import DECODER

STEPS = 4


@pytest.fixture
def config():
    """A decoder of two layers, trained for so few steps that it learns little."""
    config = skills_base.get_config()
    with config.unlocked():
        config.decoder.update(DECODER)
    config.steps, config.checkpoint_every = STEPS, 2
    config.batch_size, config.microbatch_tokens = 8, 512
    config.tokenizer_tasks = 300
    return config


def losses(workdir) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_run_that_was_stopped_leaves_the_same_bytes(config, tmp_path, monkeypatch):
    whole = pretraining.run(config, epath.Path(tmp_path / "whole"))
    write = pretraining.MetricsLog.write

    def stop_after_a_checkpoint(log, step, **values):
        if step == 3:
            raise KeyboardInterrupt
        write(log, step, **values)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining.MetricsLog, "write", stop_after_a_checkpoint)
        with pytest.raises(KeyboardInterrupt):
            pretraining.run(config, epath.Path(tmp_path / "stopped"))
    again = pretraining.run(config, epath.Path(tmp_path / "stopped"))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == STEPS


def test_the_model_is_a_checkpoint_that_has_learnt(config, tmp_path):
    config.steps, config.learning_rate = 12, 1e-2
    folder = pretraining.run(config, epath.Path(tmp_path))
    model, base = load_model(folder, NO_ADAPTER, pretraining.FLOAT32)
    assert model.config.vocab_size == DECODER["vocab_size"]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in base.values())
    first, *_, last = losses(tmp_path)
    assert last < first - 0.5
