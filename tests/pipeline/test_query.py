"""Questions to a pool's features: the answers by hand, where they are kept, what is refused."""

import json

import numpy as np
import pytest
from etils import epath

from configs import default
from g2is_jax.features.rows import unit_length
from g2is_jax.pipeline import extraction, method_inputs
from g2is_jax.pipeline.command_line import started_with
from g2is_jax.pipeline.job import open_job
from g2is_jax.pipeline.query import Question, run
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import job_of_files


@pytest.fixture(scope="module")
def config(base, files):
    return job_of_files(
        base,
        files,
        run__methods="less_rr,g2is",
        grads__kind="sgd",  # as of the rows that are asked about
    )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> epath.Path:
    """A work folder with the features of a pool."""
    folder = epath.Path(tmp_path_factory.mktemp("query") / "work")
    extraction.run(config, folder)
    return folder


def answered(config, workdir, **asked) -> list[dict]:
    folder = run(config, workdir, Question(**asked))
    assert "<table" in (folder / "query.html").read_text()
    return json.loads((folder / "answer.json").read_text())


def rows_of(config, workdir):
    job = open_job(config, workdir, measures=False)
    features = method_inputs.load_features(job, job.data.pool, "g2is", 0)
    return job.data.pool, unit_length(features[:].astype(np.float64))


def test_what_pulls_towards_rows_and_against_them(config, workdir, files):
    """The target's own rows: of all together by the mean of the cosines, then of each."""
    job = open_job(config, workdir, measures=False)
    [target] = job.data.targets
    asked = method_inputs.load_features(job, target.validation, "g2is", 0)
    cosines_MN = unit_length(asked[:].astype(np.float64)) @ rows_of(config, workdir)[1].T
    found = answered(config, workdir, rows=str(files / "val_plus.jsonl"), count=5)
    assert len(found) == 2 * (1 + len(cosines_MN))
    for towards, against, cosines_N in zip(
        found[::2], found[1::2], [cosines_MN.mean(axis=0), *cosines_MN], strict=True
    ):
        for rows, order in ((towards, -1), (against, 1)):
            expected = np.sort(order * cosines_N)[:5] * order
            np.testing.assert_allclose([row["cosine"] for row in rows["rows"]], expected, atol=1e-6)
            for row in rows["rows"]:
                assert cosines_N[row["position"]] == pytest.approx(row["cosine"], abs=1e-6)
    first = found[0]["rows"][0]
    record = job.data.pool.records[first["position"]]
    assert (first["id"], first["source"]) == (record.id, record.source)
    assert first["tokens"] == job.data.pool.tokens_N[first["position"]]
    assert first["reply"] == record.messages[-1].content


def test_a_pool_row_in_words_is_nearest_to_itself(config, workdir, capsys):
    """Its prompt and reply are asked; asked again, its features are there."""
    pool, _ = rows_of(config, workdir)
    user, assistant = pool.records[3].messages
    asked = {"prompt": user.content, "reply": assistant.content, "count": 2}
    towards, _ = answered(config, workdir, **asked)
    assert towards["rows"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert towards["rows"][0]["prompt"] == user.content
    before = stages(workdir)
    assert answered(config, workdir, **asked)[0] == towards
    assert stages(workdir) == before
    assert assistant.content in capsys.readouterr().out


def test_rows_like_a_pool_row_and_pairs_that_are_alike(config, workdir):
    pool, units_NP = rows_of(config, workdir)
    cosines_NN = units_NP @ units_NP.T
    np.fill_diagonal(cosines_NN, -2)
    towards, _ = answered(config, workdir, pool_row=pool.records[0].id, count=4)
    found = [row["position"] for row in towards["rows"]]
    assert 0 not in found
    np.testing.assert_allclose(cosines_NN[0, found], np.sort(cosines_NN[0])[::-1][:4], atol=1e-6)
    least = float(np.sort(cosines_NN[np.triu_indices(len(pool.records), 1)])[-3]) - 1e-4
    pairs = answered(config, workdir, duplicates=least)
    assert len(pairs) == 3
    for pair in pairs:
        one, other = (row["position"] for row in pair["rows"])
        assert cosines_NN[one, other] == pytest.approx(pair["rows"][1]["cosine"], abs=1e-5)
    cosines = [pair["rows"][1]["cosine"] for pair in pairs]
    assert cosines == sorted(cosines, reverse=True)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "ask one thing: --rows"),
        ({"prompt": "a", "reply": "b", "pool_row": "x"}, "ask one thing: --rows"),
        ({"prompt": "a"}, "needs both"),
        ({"pool_row": "nobody"}, r"--pool_row: .*pool\.jsonl has no usable row .*'nobody'"),
        ({"duplicates": 1.5}, "--duplicates: 1.5 must be above 0 and at most 1"),
        ({"pool_row": "x", "count": 0}, "--count: 0 must be 1 or more"),
        ({"rows": "gone.jsonl"}, r"gone\.jsonl"),
    ],
)
def test_questions_that_cannot_be_answered(config, workdir, asked, told):
    with pytest.raises(InputError, match=told):
        run(config, workdir, Question(**asked))


def test_a_pool_without_features_is_not_passed_over(config, tmp_path):
    with pytest.raises(InputError, match="not finished"):
        run(config, epath.Path(tmp_path), Question(prompt="a", reply="b"))
    assert not stages(tmp_path)


def test_the_config_of_a_work_folder(config, workdir, tmp_path):
    found = started_with(workdir, default.get_config())
    assert found.run.replace
    found.run.replace = False
    assert found.to_dict() == json.loads((workdir / "config.json").read_text())
    assert (found.lora.rank, found.data.pool) == (config.lora.rank, config.data.pool)
    with pytest.raises(InputError, match=r"config\.json: no such file; give --config"):
        started_with(tmp_path, default.get_config())
    (tmp_path / "config.json").write_text('{"walk": {"delta": 0.5}}')  # of an earlier edition
    assert started_with(tmp_path, default.get_config()).walk.delta == 0.5
    (tmp_path / "config.json").write_text('{"walk": {"dleta": 1}}')
    with pytest.raises(InputError, match="not a config of this edition"):
        started_with(tmp_path, default.get_config())
