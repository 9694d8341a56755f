"""A fine-tune of all weights: a checkpoint that transformers reads, measured as it is."""

import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.model.weights import read_weights
from g2is_jax.pipeline import finetune_stage, selection_stage, whole_run
from g2is_jax.pipeline.cases import label
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, small_config


@pytest.fixture(scope="module")
def config(base):
    return changed(small_config(base), run__methods="none,random", finetune__full=True)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> epath.Path:
    folder = epath.Path(tmp_path_factory.mktemp("work"))
    whole_run.run(config, folder)
    return folder


def checkpoint(job) -> epath.Path:
    target = job.data.targets[0]
    chosen = selection_stage.stage(job, "random", target, 0)
    return finetune_stage.stage(job, chosen, label("random", target, 0), 0) / "model"


def test_a_checkpoint_with_other_weights_and_the_same_tokenizer(config, workdir, torch):
    import transformers

    job = open_job(config, workdir)
    folder = checkpoint(job)
    tuned = read_weights(folder, job.model.base_layout, job.model.dtype, lambda path: None)
    for path, leaf in tuned.items():
        assert not np.array_equal(leaf, job.weights[path]), path
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    np.testing.assert_array_equal(
        theirs.model.embed_tokens.weight.detach().numpy(), tuned["embed_tokens"]
    )
    transformers.AutoTokenizer.from_pretrained(folder)
    assert not (folder.parent / "adapter").exists()


def test_it_is_measured(config, workdir):
    losses = {
        json.loads((folder / "metrics.json").read_text())["answer_loss"]
        for folder in workdir.glob("stages/evaluate-*")
    }
    assert len(losses) == 2  # the base's, and another


def test_beside_adapters(config, workdir):
    """Another fine-tune of the same selection; both it and the base are measured anew."""
    before = stages(workdir)
    whole_run.run(changed(config, finetune__full=False, run__replace=True), workdir)
    new = [name.partition("-")[0] for name in stages(workdir) if name not in before]
    assert sorted(new) == ["evaluate", "evaluate", "finetune"]


def test_what_has_no_adapter(config, tmp_path):
    for fields in ({"finetune__merge": True}, {"evaluate__curves": True}):
        with pytest.raises(InputError, match=r"finetune\.full leaves a whole checkpoint"):
            open_job(changed(config, **fields), epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"set evaluate\.adapter to last"):
        open_job(changed(config, evaluate__adapter="best"), epath.Path(tmp_path))
