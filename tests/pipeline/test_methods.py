"""Every method in small: its inputs, what decides its selection, and what is shared."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from configs import default
from g2is_jax.features.rows import Rows, side_by_side, unit_length
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import (
    embed_stage,
    features_stage,
    hidden_stage,
    losses_stage,
    method_inputs,
    own_features,
    selection_stage,
)
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.selection.core import KnowledgeConfig
from g2is_jax.selection.methods import METHODS, MethodInputs, core_of, identity, reads
from g2is_jax.selection.rivals.bids import bids
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.gip import gip
from g2is_jax.selection.rivals.gist import gist
from g2is_jax.selection.rivals.knn import knn_even
from g2is_jax.selection.rivals.less import less, less_rr
from g2is_jax.selection.rivals.lexical import bm25, dsir
from g2is_jax.selection.rivals.loss_drop import loss_drop
from g2is_jax.selection.rivals.pursuit import pursuit
from g2is_jax.selection.rivals.rds import rds_plus
from g2is_jax.selection.rivals.tsds import tsds_kde, tsds_knn
from g2is_jax.selection.rivals.uot import uot
from tests.support.small import stages
from tests.support.small_job import changed, small_config

ASKED = (
    *("random", "bm25", "dsir", "rds_plus", "less", "bids", "gist", "knn_even", "tsds_knn"),
    *("tsds_kde", "uot", "coverage", "pursuit", "gip", "loss_drop", "embed", "g2is"),
)


@pytest.fixture(scope="module")
def asked(base, files):
    """Two targets and two seeds."""
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=f"{files / 'val_plus.jsonl'},{files / 'val_pick.jsonl.gz'}",
        data__test=f"{files / 'test_plus.jsonl'},{files / 'test_pick.jsonl'}",
        run__methods=",".join(ASKED),
        run__seeds="0,1",
        grads__kind="sign",
        gist__rank=2,
    )


@pytest.fixture(scope="module")
def finished(asked, tmp_path_factory) -> tuple[Job, dict]:
    """The job, and what was chosen by method, target and seed."""
    workdir = epath.Path(tmp_path_factory.mktemp("methods") / "work")
    chosen = iter(selection_stage.run(asked, workdir))
    job = open_job(asked, workdir)
    return job, {
        (m, t.name, s): next(chosen)
        for s in job.settings.seeds
        for m in ASKED
        for t in job.data.targets
    }


def texts(records, last: bool) -> list[str]:
    """Prompts, with the replies where `last` is set; rows of these files have two messages."""
    return [
        "\n".join(message.content for message in record.messages[: 2 if last else 1])
        for record in records
    ]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("number", [0, 1])
def test_each_method_has_the_inputs_it_needs(finished, number, seed):
    """Its library function, called on what is read from the stores by hand."""
    job, chosen = finished
    target, limits = job.data.targets[number], job.limits
    pool = {
        kind: open_store(features_stage.stages(job, job.data.pool, kind, seed)[0]).read()[:]
        for kind in ("adam", "sgd", "sign")
    }
    [own] = [open_store(f) for f in features_stage.stages(job, target.validation, "sgd", seed)]
    hidden = [
        open_store(hidden_stage.stage(job, dataset)).read()[:]
        for dataset in (job.data.pool, target.validation)
    ]
    units_MP, subtasks = own.read()[:], [r.subtask for r in target.validation.records]
    unnormalised_MP = units_MP * own.norms_N[:, None]
    prompt_rows = [
        open_store(embed_stage.stage(job, dataset)).read()[:]
        for dataset in (job.data.pool, target.validation)
    ]
    losses = [
        losses_stage.losses(folder)
        for folder in (losses_stage.before(job), losses_stage.after(job, target, seed))
    ]
    sign_NP, records = pool["sign"], target.validation.records
    prompts = texts(job.data.pool.records, last=False), texts(records, last=False)
    wholes = texts(job.data.pool.records, last=True), texts(records, last=True)
    expected = {
        "bm25": bm25(*prompts, limits),
        "dsir": dsir(*wholes, limits, seed),
        "rds_plus": rds_plus(*hidden, limits),
        "less": less(pool["adam"], units_MP, subtasks, limits),
        "bids": bids(pool["adam"], units_MP, limits),
        "gist": gist(pool["sgd"], unnormalised_MP, subtasks, 2, limits),
        "knn_even": knn_even(sign_NP, units_MP, limits),
        "tsds_knn": tsds_knn(sign_NP, units_MP, limits),
        "tsds_kde": tsds_kde(sign_NP, units_MP, limits),
        "uot": uot(sign_NP, units_MP, limits),
        "coverage": coverage(sign_NP, units_MP, limits),
        "pursuit": pursuit(sign_NP, units_MP, limits),
        "gip": gip(sign_NP, units_MP, limits),
        "loss_drop": loss_drop(*losses, limits),
        "embed": less_rr(*prompt_rows, limits),
    }
    for method, selection in expected.items():
        assert chosen[method, target.name, seed].rows == selection.rows, method
        assert len(selection.rows) == 8


def test_pool_rows_stay_as_they_are_stored(finished):
    job, _ = finished
    rows = method_inputs.rows_of(job, job.data.pool, "g2is", 0)
    assert isinstance(rows, Rows)
    assert rows.values_NP.dtype.name == job.settings.features.store.dtype == "bfloat16"
    [store] = [open_store(f) for f in features_stage.stages(job, job.data.pool, "sign", 0)]
    np.testing.assert_array_equal(rows[:], store.read()[:])
    assert rows.finite_N.all()


def test_words_and_hidden_states_need_no_warm_up(finished, asked, tmp_path):
    job, chosen = finished
    config = changed(asked, run__methods="bm25,dsir,rds_plus", run__seeds="0")
    again = selection_stage.run(config, epath.Path(tmp_path))
    assert {name.partition("-")[0] for name in stages(tmp_path)} == {"hidden", "selection"}
    expected = [chosen[m, t, 0] for m in ("bm25", "dsir", "rds_plus") for t in ("plus", "pick")]
    assert [one.rows for one in again] == [one.rows for one in expected]
    of_hidden = [
        hidden_stage.stage(job, d) for d in (job.data.pool, job.data.targets[0].validation)
    ]
    folder = chosen["rds_plus", "plus", 0].folder
    seconds = sum(read_manifest(one)["seconds"] for one in (*of_hidden, folder))
    assert chosen["rds_plus", "plus", 0].seconds == pytest.approx(seconds)
    assert (
        chosen["bm25", "plus", 0].seconds
        == read_manifest(chosen["bm25", "plus", 0].folder)["seconds"]
    )


def test_a_seed_is_another_selection_where_it_is_read(finished):
    _, chosen = finished
    for method in ASKED:
        both = {chosen[method, "plus", seed].folder for seed in (0, 1)}
        assert len(both) == (1 if method in ("bm25", "rds_plus", "embed") else 2), method


def test_compositions_are_told(finished):
    job, chosen = finished
    told = json.loads((job.stages.workdir / "report" / "composition.json").read_text())
    assert list(told["targets"]) == ["plus", "pick"]
    for target, found in told["targets"].items():
        assert [line["method"] for line in found["methods"]] == list(ASKED)
        for line in found["methods"]:
            both = [chosen[line["method"], target, seed] for seed in (0, 1)]
            assert line["tokens"] == pytest.approx(np.mean([one.tokens for one in both]))
            assert line["seconds"] == pytest.approx(np.mean([one.seconds for one in both]))
            of_plus = [
                np.mean([job.data.pool.records[r].source == "plus" for r in o.rows]) for o in both
            ]
            assert line["shares"]["plus"] == pytest.approx(np.mean(of_plus))


def test_own_features_from_a_store_choose_as_the_stages_do(finished, tmp_path):
    """They read the stages' stores by their folders, with no model at hand."""
    job, chosen = finished
    [pool] = features_stage.stages(job, job.data.pool, "sign", 0)
    [own] = features_stage.stages(job, job.data.targets[0].validation, "sgd", 0)
    bare = changed(job.config, model__checkpoint="", data__pool="", run__seeds="0")
    config = changed(bare, run__methods="knn_even,tsds_kde,uot,coverage,pursuit,gip,g2is")
    places = own_features.run(config, epath.Path(tmp_path), pool, own, job.data.pool.path)
    for place in places:
        folder = chosen[place.name, "plus", 0].folder
        picks, expected = (
            [json.loads(line) for line in (one / "selection.jsonl").read_text().splitlines()]
            for one in (place, folder)
        )
        fields = ("row", "position", "id", "source", "component", "reason")
        assert [[p[f] for f in fields] for p in picks] == [[p[f] for f in fields] for p in expected]
        lines = (place / "selected.jsonl").read_bytes()
        assert lines == (folder / "selected.jsonl").read_bytes()


# Which settings decide what.


VALUES = {  # two legal values of each field that is no number, and of some that are
    "knowledge.sign": ("svd", "mean"),
    "knowledge.keep": ("ratio", "variance"),
    "knowledge.anchors": ("rows", "components"),
    "graph.kind": ("knn", "exact"),
    "walk.delta_reference": ("best", "current"),
    "walk.on_exhausted": ("stop", "relax"),
    "walk.order": ("components", "together"),
    "embed.encoder": ("some/encoder", ""),
    "selection.unit": ("rows", "tokens"),
    "selection.budget": (1.0, 0.0),
    "selection.source_cap": (0.5, 0.4),
    "selection.memory": ("disk", "memory"),
}


def other(field: str, value):
    """A legal value of the field that is not this one."""
    if isinstance(value, bool):
        return not value
    legal = VALUES.get(
        field.removeprefix("paper."), (3, 4) if isinstance(value, int) else (0.35, 0.6)
    )
    return next(one for one in legal if one != value)


# By other fields of the default config.
UNREAD = (
    *("graph.neighbours", "paper.graph.neighbours", "knowledge.sign"),
    *("paper.walk.fairness", "paper.walk.drift"),
)


def test_a_field_decides_for_the_methods_that_read_it_and_for_no_others():
    config = default.get_config()
    checked = 0
    for field, value in config_fields(config).items():
        if field.partition(".")[0] not in (
            "knowledge",
            "graph",
            "walk",
            "gist",
            "embed",
            "paper",
            "selection",
        ):
            continue
        if field in UNREAD or field in ("paper.kind", "selection.targets"):
            continue  # the last is of jobs with several targets
        changes = {field: other(field, value)}
        if field == "selection.unit":
            changes["selection.budget"] = 1.0
        over = changed(config, **{name.replace(".", "__"): v for name, v in changes.items()})
        before, after = read_selection(config), read_selection(over)
        for method in METHODS:
            differs = identity(method, before, 0) != identity(method, after, 0)
            assert differs == (reads(method, field) and method != "full"), (method, field)
        checked += 1
    assert checked >= 28


@pytest.mark.parametrize(
    ("field", "values", "reader", "readers"),
    [
        ("graph__neighbours", (5, 6), "graph__kind", {"exact": False, "knn": True}),
        ("knowledge__sign", ("svd", "mean"), "knowledge__anchors", {"rows": 0, "components": 1}),
        ("walk__fairness", (1.0, 2.0), "walk__order", {"components": False, "together": True}),
        ("walk__drift", (1.0, 2.0), "walk__order", {"components": False, "together": True}),
    ],
)
def test_a_field_counts_where_another_one_lets_it_be_read(field, values, reader, readers):
    for value, differs in readers.items():
        of = [
            read_selection(changed(default.get_config(), **{reader: value, field: one}))
            for one in values
        ]
        assert (identity("g2is", of[0], 0) != identity("g2is", of[1], 0)) == differs


def test_several_checkpoints_count_by_their_weights_not_by_their_gradients_lengths():
    """Two checkpoints are side by side, the first with gradients 50 times as long."""
    rng = np.random.default_rng(0)
    checkpoints = [
        Rows(
            unit_length(rng.normal(size=(6, 4)).astype(np.float32)),
            norms_NK=np.full((6, 1), length, np.float32),
        )
        for length in (50, 1)
    ]
    inputs = MethodInputs(
        settings=read_selection(default.get_config()),
        limits=None,
        seed=0,
        tokens_N=None,
        pool=checkpoints[0],
        validation=side_by_side(checkpoints, (0.5, 0.5)),
    )
    knowledge = KnowledgeConfig(False, "svd", "count", 3, True, "components")
    shares = {}
    for unit in (True, False):
        core = core_of(dataclasses.replace(knowledge, unit_rows=unit), inputs)
        shares[unit] = (core.core_CP[0, :4] ** 2).sum()
    assert 0.2 < shares[True] < 0.8
    assert shares[False] > 0.99


def test_features_and_later_stages():
    assert reads("less", "lora.rank")
    assert reads("g2is", "grads.folds")
    assert not reads("random", "warmup.fraction")
    assert reads("loss_drop", "warmup.epochs")
    assert reads("loss_drop", "lora.rank")
    assert not reads("loss_drop", "warmup.fraction")  # it is trained on all validation rows
    assert not reads("loss_drop", "grads.kind")
    assert reads("rds_plus", "grads.dtype")
    assert not reads("embed", "lora.rank")
    assert not reads("bm25", "projection.width")
    assert not any(reads(method, "finetune.epochs") for method in METHODS)
    assert reads("random", "selection.budget")


def test_seeds_are_part_of_what_is_drawn():
    choosing = read_selection(default.get_config())
    seeded = {m for m in METHODS if identity(m, choosing, 0) != identity(m, choosing, 1)}
    assert seeded == {"random", "dsir"}


def test_rank_of_gist_out_of_range(config, tmp_path):
    with pytest.raises(InputError, match=r"^gist\.rank = 0; it must be at least 1$"):
        open_job(changed(config, gist__rank=0), epath.Path(tmp_path))


def test_every_method_of_the_page_is_there():
    expected = "none full random length bm25 dsir rds_plus less less_rr bids gist knn_even tsds_knn"
    expected += " tsds_kde uot coverage pursuit gip loss_drop embed g2is_paper g2is"
    assert list(METHODS) == expected.split()
