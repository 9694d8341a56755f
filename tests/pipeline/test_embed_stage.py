"""Embeddings of a job: the base's own, or those of an encoder in a folder."""

import shutil

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.records import prompt
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import embed_stage, hidden_stage, inputs, selection_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.rivals.less import less_rr
from tests.support.small import ROOT, stages
from tests.support.small_job import changed
from tests.support.tiny_encoder import vectors, write_encoder

SETTINGS = {"run__methods": "embed", "grads__dtype": "float32", "grads__chunk_rows": 8}

LATE = {"run__methods": "length,embed"}  # the first of them would leave a stage


@pytest.fixture(scope="module")
def folder(torch, tmp_path_factory):
    return write_encoder(torch, tmp_path_factory.mktemp("encoder"))


def test_the_default_is_the_mean_hidden_state_of_the_prompt(file_config, tmp_path):
    job = open_job(changed(file_config, **SETTINGS), epath.Path(tmp_path))
    target = job.data.targets[0]
    hidden = jax.jit(lambda x: job.model.hidden(job.model.zero_adapter(), job.weights, x))
    for dataset in (job.data.pool, target.validation):
        store = open_store(embed_stage.stage(job, dataset))
        expected = []
        for example in dataset.encoded:
            before = int(np.argmax(example.supervised_T))  # rows of one reply
            states = np.asarray(hidden(example.tokens_T))[:before]
            total = sum(states.astype(np.float64)) / before
            expected.append(total / np.linalg.norm(total))
        np.testing.assert_allclose(store.read()[:], expected, atol=2e-6)
        np.testing.assert_array_equal(store.tokens_N, dataset.tokens_N)
    [chosen, *_] = selection_stage.run(job.config, job.stages.workdir)
    pool, validation = (
        open_store(embed_stage.stage(job, dataset)).read()[:]
        for dataset in (job.data.pool, target.validation)
    )
    assert chosen.rows == less_rr(pool, validation, job.limits).rows
    kinds = {name.partition("-")[0] for name in stages(tmp_path)}
    assert kinds == {"hidden", "selection"}
    assert hidden_stage.stage(job, job.data.pool) != embed_stage.stage(job, job.data.pool)


def test_an_encoder_gives_the_vectors_of_transformers(torch, file_config, folder, tmp_path):
    config = changed(file_config, **SETTINGS, embed__encoder=str(folder))
    chosen = selection_stage.run(config, epath.Path(tmp_path))
    job = open_job(config, epath.Path(tmp_path))
    found = []
    for dataset in (job.data.pool, job.data.targets[0].validation):
        store = open_store(embed_stage.stage(job, dataset))
        texts = [prompt(record) for record in dataset.records]
        found.append(vectors(torch, folder, texts))
        np.testing.assert_allclose(store.read()[:], found[-1], atol=2e-6)
        np.testing.assert_array_equal(store.rows_N, dataset.records.numbers_N)
    assert len(chosen[0].rows) == 8
    cosines_N = found[0] @ found[1][0]
    assert cosines_N[chosen[0].rows[0]] == pytest.approx(cosines_N.max(), abs=1e-6)


def test_an_encoder_is_known_by_its_files_and_not_by_its_place(
    torch, file_config, folder, tmp_path
):
    """A copy elsewhere is the same; other weights or another base's weights are not, or are."""
    job = open_job(
        changed(file_config, **SETTINGS, embed__encoder=str(folder)), epath.Path(tmp_path / "work")
    )
    first = embed_stage.stage(job, job.data.pool)
    shutil.copytree(folder, tmp_path / "copy")
    other = write_encoder(torch, tmp_path / "other", seed=1)
    for fields, same in (
        ({"embed.encoder": str(tmp_path / "copy")}, True),
        ({"lora.rank": 2, "grads.kind": "adam"}, True),
        ({"embed.encoder": str(other)}, False),
        ({"embed.encoder": ""}, False),
        ({"grads.dtype": "bfloat16"}, False),
    ):
        variant = job.variant(fields)
        assert (embed_stage.stage(variant, variant.data.pool) == first) == same, fields


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("gs://bucket/encoder", r"embed\.encoder: gs://bucket/encoder is not on this machine"),
        (str(ROOT / "tests"), r"tests.*config\.json"),
        ("no such folder", r"no such folder.*set embed\.encoder to either"),
    ],
)
def test_wrong_encoders_are_said_before_any_work(torch, file_config, tmp_path, encoder, message):
    config = changed(file_config, **SETTINGS | LATE, embed__encoder=encoder)
    with pytest.raises(InputError, match=message):
        selection_stage.run(config, epath.Path(tmp_path))
    assert stages(tmp_path) == []
    job = open_job(changed(config, run__methods="random"), epath.Path(tmp_path))
    job.check_inputs()  # nobody asks for it


def test_a_missing_extra_is_said_before_any_work(file_config, folder, tmp_path, monkeypatch):
    def absent():
        raise InputError('needs the extra [embed]: pip install -e ".[embed]"')

    monkeypatch.setattr(inputs, "import_torch", absent)
    config = changed(file_config, **SETTINGS | LATE, embed__encoder=str(folder))
    with pytest.raises(InputError, match=r"\[embed\]"):
        selection_stage.run(config, epath.Path(tmp_path))
    assert stages(tmp_path) == []
