"""What a user can get wrong is said in one line, with place and way out, before any long work."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from experiments import run_all
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import picking, row, stages, write_rows
from tests.support.small_job import changed


def refused(config, workdir: Path) -> str:
    """What the job says of a bad config, at the latest when it checks its inputs."""
    with pytest.raises(InputError) as caught:
        open_job(config, epath.Path(workdir)).check()
    several = " rows are bad, over the 5% that may be dropped" in str(caught.value)
    assert "\n" not in str(caught.value) or several
    assert not [name for name in stages(workdir) if not name.startswith("world-")]
    return str(caught.value)


def refused_pool(config, tmp_path: Path, content: bytes | list) -> str:
    """The message on a pool of this content, without the file's path, which must lead it."""
    file = tmp_path / "bad.jsonl"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write_rows(file, content)
    message = refused(changed(config, data__pool=str(file)), tmp_path / "work")
    assert message.startswith(str(file))
    return message.removeprefix(str(file))


def test_a_good_job_is_not_refused(file_config, config, tmp_path, capsys):
    job = open_job(file_config, epath.Path(tmp_path / "files"))
    job.check()
    assert [target.name for target in job.data.targets] == ["plus", "pick"]
    assert (len(job.data.pool.records), job.data.pool.dropped, job.data.pool.truncated) == (
        40,
        1,
        1,
    )
    assert "40 usable rows, 1 dropped" in capsys.readouterr().out
    open_job(config, epath.Path(tmp_path / "world")).check()
    assert stages(tmp_path / "files") == []
    assert [name.partition("-")[0] for name in stages(tmp_path / "world")] == ["world"]


# Files.


@pytest.mark.parametrize("field", ["data.pool", "data.validation", "data.test"])
def test_missing_file(file_config, tmp_path, field):
    gone = tmp_path / "gone.jsonl"
    both = f"{gone},{file_config.data.test.split(',')[1]}"
    name = field.replace(".", "__")
    config = changed(file_config, **{name: str(gone) if field == "data.pool" else both})
    message = refused(config, tmp_path)
    assert message.startswith(f"{gone}: no such file")
    assert field in message


def test_file_of_another_kind(file_config, tmp_path):
    (tmp_path / "pool.csv").write_text("a,b\nc,d")
    config = changed(file_config, data__pool=str(tmp_path / "pool.csv"))
    assert refused(config, tmp_path).startswith(f"{tmp_path / 'pool.csv'}:2: format not recog")
    (tmp_path / "pool.parquet").write_bytes(b"PAR1 PAR1")
    config = changed(file_config, data__pool=str(tmp_path / "pool.parquet"))
    assert "pool.parquet: a parquet file: " in refused(config, tmp_path)


NO_LABEL = row(2, messages=[{"role": "user", "content": "Why?"}])
ODD_ROLE = row(2, messages=[{"role": "wizard", "content": "Why?"}])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ": no rows; expected one JSON object per line"),
        (b"\n \n", ": no rows; expected one JSON object per line"),
        ([row(1), "text"], ":2: the row is a string; expected a JSON object"),
        (b'{"messages": [\n', ":1: not JSON"),
        ([row(1), {"id": "2"}], ':2: format not recognised, the fields are "id"; a row needs '),
        ([{"text": "all in one"}], ':1: only "text", which does not say what is asked'),
        ([row(1), ODD_ROLE], ":2: message 1 has the unknown \"role\" 'wizard'; known are system"),
        ([row(1), NO_LABEL], ":2: no assistant message; there is nothing to learn"),
        (json.dumps(row(1)).encode() + b'\n{"id": "\xff"}', ":2: byte 0xff is not UTF-8; convert"),
    ],
)
def test_pool_that_cannot_be_read(file_config, tmp_path, content, told):
    assert refused_pool(file_config, tmp_path, content).startswith(told)


def too_long(number: int) -> dict:
    turns = row(number)["messages"]
    return row(number, messages=[{"role": "user", "content": "zebra " * 99}, turns[1]])


def test_no_supervised_token_in_any_row(file_config, tmp_path):
    message = refused_pool(file_config, tmp_path, [too_long(1), too_long(2)])
    assert message.startswith(": no row has a supervised token within 64 tokens; raise model.max_")


@pytest.mark.parametrize("field", ["validation", "test"])
def test_target_without_rows_or_without_anything_to_measure(file_config, tmp_path, field):
    other = getattr(file_config.data, field).split(",")[1]
    file = tmp_path / f"{field}_bad.jsonl"
    config = changed(file_config, **{f"data__{field}": f"{file},{other}"})
    file.write_text("")
    assert refused(config, tmp_path).startswith(f"{file}: no rows; ")
    write_rows(file, [too_long(1)])
    assert refused(config, tmp_path).startswith(f"{file}: no row has a supervised token")


def test_test_row_without_its_answer(file_config, tmp_path):
    silent = picking(12)
    silent.pop("answer")
    file = write_rows(tmp_path / "test_bad.jsonl", [picking(11), silent])
    config = changed(file_config, data__test=f"{file},{file_config.data.test.split(',')[1]}")
    assert refused(config, tmp_path).startswith(f'{file}:2: no "answer"; ')


def test_validation_and_test_lists_that_do_not_match(file_config, tmp_path):
    first = file_config.data.test.split(",")[0]
    message = refused(changed(file_config, data__test=first), tmp_path)
    assert message.startswith("data.validation names 2 files and data.test 1; give one of each")
    none = changed(file_config, data__test="", data__validation="")
    assert refused(none, tmp_path).startswith("data.validation is empty; give a file of rows that")
    untested = changed(file_config, data__test="")
    assert refused(untested, tmp_path).startswith("data.validation names 2 files and data.test 0")


def test_stages_before_the_evaluation_ask_for_no_test_rows(file_config, tmp_path, capsys):
    config = changed(file_config, data__test="")
    job = open_job(config, epath.Path(tmp_path), measures=False)
    job.check()
    printed = capsys.readouterr().out
    assert f"{file_config.data.test.split(',')[0]}: " not in printed
    assert "val_plus.jsonl: 4 rows" in printed
    assert printed.startswith("data.test is empty: overlap is looked for in validation rows alone")
    assert [target.test for target in job.data.targets] == [None, None]
    whole = open_job(file_config, epath.Path(tmp_path))  # the test files come later
    assert whole.data.pool.digest == job.data.pool.digest
    assert json.loads((tmp_path / "config.json").read_text())["data"]["test"]


def test_two_targets_of_one_name(file_config, tmp_path):
    first, second = file_config.data.validation.split(",")
    shutil.copy(first, tmp_path / "validation_pick.jsonl")
    config = changed(file_config, data__validation=f"{tmp_path / 'validation_pick.jsonl'},{second}")
    assert refused(config, tmp_path).startswith(
        "data.validation: two targets would be called 'pick'"
    )


@pytest.mark.parametrize(("file", "name"), [("val_", ""), ("val_.", "."), ("..", "..")])
def test_a_target_cannot_leave_the_work_folder(file_config, tmp_path, file, name):
    first, second = file_config.data.validation.split(",")
    shutil.copy(first, tmp_path / f"{file}.jsonl")
    config = changed(file_config, data__validation=f"{tmp_path / file}.jsonl,{second}")
    told = f"data.validation: the target of {tmp_path / file}.jsonl would be called {name!r}, which"
    assert refused(config, tmp_path).startswith(told)


# The checkpoint.


@pytest.fixture
def own_base(base, tmp_path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(base, tmp_path / "own_base"))


def with_tensors(config, folder: Path, change) -> object:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return changed(config, model__checkpoint=str(folder))


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop(NORM), f"missing: {NORM}"),
        (lambda tensors: tensors.update(extra=np.zeros(3, np.float32)), "unused: extra"),
        (
            lambda tensors: tensors.update({NORM: np.zeros(31, np.float32)}),
            f"wrong shape: {NORM} is (31,) and should be (32,)",
        ),
    ],
)
def test_tensors_that_do_not_fit(file_config, own_base, tmp_path, change, told):
    message = refused(with_tensors(file_config, own_base, change), tmp_path)
    assert message.startswith(f"{own_base}: tensors do not fit config.json; {told}; give the ")


def drop(name: str):
    return lambda folder: (folder / name).unlink()


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:200])


def without_eps(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    del settings["rms_norm_eps"]
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop("tokenizer.json"), "no tokenizer here; put the model's tokenizer.json into"),
        (cut("tokenizer.json"), "the tokenizer cannot be loaded"),
        (drop("config.json"), "config.json: no such file; model.checkpoint must be"),
        (cut("config.json"), "config.json: not valid JSON"),
        (without_eps, "config.json: has no rms_norm_eps"),
        (drop("model.safetensors"), "model.safetensors: no such file"),
        (cut("model.safetensors"), "model.safetensors: not a whole safetensors file"),
        (shutil.rmtree, "no such folder, and not of a hub id's form"),
    ],
)
def test_damaged_checkpoint(file_config, own_base, tmp_path, damage, told):
    damage(own_base)
    message = refused(changed(file_config, model__checkpoint=str(own_base)), tmp_path)
    assert message.startswith(str(own_base))
    assert told in message


def test_tokenizer_of_another_model(file_config, own_base, tmp_path):
    settings = json.loads((own_base / "config.json").read_text())
    (own_base / "config.json").write_text(json.dumps(settings | {"vocab_size": 300}))

    def shorten(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:300].copy()

    message = refused(with_tensors(file_config, own_base, shorten), tmp_path)
    assert "the model has 300; use the tokenizer that belongs to the model" in message


# Values. The message leads with the field's full name.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.checkpoint", ""),
        ("model.dtype", "float8"),
        ("model.activations", "float16"),
        ("model.attention", "flash"),
        ("model.attention", "cudnn"),  # with activations in float32
        ("model.revision", "main"),  # of a folder
        ("model.chat_template", "vicuna"),
        ("model.max_length", 0),
        ("lora.rank", 0),
        ("lora.alpha", 0.0),
        ("lora.dropout", 1.0),
        ("lora.targets", ""),
        ("lora.targets", "q_proj,query"),
        ("data.pool", ""),
        ("world.targets", "sorting_letters,juggling"),
        ("world.targets", "sorting_letters,sorting_letters"),
        ("world.scale", 0.0),
        ("world.wrong", 1.5),
        ("world.duplicates", 1.5),
        ("world.validation_rows", 0),
        ("world.test_rows", 0),
        *(
            (f"{section}.{field}", value)
            for section in ("warmup", "finetune")
            for field, value in (
                ("epochs", 0),
                ("batch_size", 0),
                ("microbatch_tokens", 0),
                ("keep_checkpoints", -1),
                ("learning_rate", -1e-3),
                ("learning_rate", float("nan")),
                ("schedule", "step"),
                ("warmup", 1.5),
                ("weight_decay", -0.1),
                ("b1", 1.0),
                ("b2", -0.1),
                ("eps", 0.0),
            )
        ),
        ("warmup.fraction", 0.0),
        ("warmup.fraction", 1.1),
        ("grads.kind", "newton"),
        ("grads.less_kind", "newton"),
        ("grads.validation_kind", "newton"),
        ("paper.kind", "newton"),
        ("grads.batch_tokens", -1),
        ("grads.chunk_rows", 0),
        ("grads.dtype", "int4"),
        ("projection.kind", "gaussian"),
        ("projection.width", 0),
        *(
            (f"{above}{field}", value)
            for above in ("", "paper.")
            for field, value in (
                ("knowledge.sign", "random"),
                ("knowledge.keep", "all"),
                ("knowledge.keep_value", 0.0),
                ("graph.kind", "complete"),
                ("graph.neighbours", 0),
                ("walk.delta", 1.1),
                ("walk.delta_reference", "first"),
                ("walk.pull", -0.1),
                ("walk.conflict_tolerance", 2.0),
                ("walk.max_similarity", 1.1),
                ("walk.on_exhausted", "cry"),
            )
        ),
        ("selection.budget", -1.0),
        ("selection.budget", 1.5),
        ("selection.unit", "words"),
        ("selection.source_cap", 0.0),
        ("evaluate.batch_tokens", 0),
        ("evaluate.adapter", "newest"),
        ("evaluate.new_tokens", -1),
        ("evaluate.new_tokens", 64),
        ("run.methods", "random,oracle"),
        ("run.methods", " , "),
        ("run.methods", "random,random"),
        *(("run.seeds", text) for text in ("", "zero", "-1", "1.0", "1,1", "0,00", "²")),
    ],
)
def test_value_out_of_range(config, tmp_path, field, value):
    message = refused(changed(config, **{field.replace(".", "__"): value}), tmp_path)
    assert message.startswith(field)


@pytest.mark.parametrize("unit", ["rows", "tokens"])
def test_budget_above_the_pool(file_config, tmp_path, unit):
    config = changed(file_config, selection__budget=5000.0, selection__unit=unit)
    assert f"selection.budget: 5000 {unit} asked, the pool holds" in refused(config, tmp_path)


@pytest.mark.parametrize(("above", "method"), [("", "g2is"), ("paper.", "g2is_paper")])
def test_sizes_that_the_rows_cannot_give(file_config, tmp_path, above, method):
    section = above.replace(".", "__")
    few = {f"{section}graph__kind": "knn", f"{section}graph__neighbours": 40}
    config = changed(file_config, run__methods=method, **few)
    told = f"{above}graph.neighbours: 40 asked, a pool of 40 rows has at most 39 for each"
    assert refused(config, tmp_path) == told
    many = {f"{section}knowledge__keep": "count", f"{section}knowledge__keep_value": 5.0}
    config = changed(file_config, run__methods=method, **many)
    assert refused(config, tmp_path).startswith(f"{above}knowledge asks for more components")
    open_job(changed(config, run__methods="random"), epath.Path(tmp_path / "unread")).check()


def test_one_validation_row_cannot_be_centred(file_config, tmp_path):
    file = write_rows(tmp_path / "val_one.jsonl", [row(1)])
    one = changed(
        file_config, data__validation=str(file), data__test=file_config.data.test.split(",")[0]
    )
    message = refused(changed(one, run__methods="g2is_paper"), tmp_path)
    assert message.startswith("paper.knowledge asks for more components than the 0")
    open_job(changed(one, run__methods="g2is"), epath.Path(tmp_path / "uncentred")).check()


def test_section_with_a_field_too_many_or_too_few(config, tmp_path):
    more = changed(config)
    with more.unlocked():
        more.walk.dleta = 0.7
    assert refused(more, tmp_path).startswith("config section walk: ")
    less = changed(config)
    with less.unlocked():
        del less.finetune.schedule
    message = refused(less, tmp_path)
    assert message.startswith("config section finetune: ")
    assert message.endswith("'schedule'; compare it with configs/default.py")


# The work folder.


def test_work_folder_begun_with_another_config(config, tmp_path):
    open_job(config, epath.Path(tmp_path)).check()
    (tmp_path / "stages" / "warmup-0123.part").mkdir()
    other = changed(config, walk__delta=0.5)
    with pytest.raises(
        InputError, match=r"started with another config: walk\.delta is 0\.5, was 0"
    ):
        open_job(other, epath.Path(tmp_path))
    open_job(changed(config, run__seeds="1", grads__chunk_rows=7), epath.Path(tmp_path))
    open_job(changed(other, run__replace=True), epath.Path(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["walk"]["delta"] == 0.5


def test_refused_run_does_not_bind_the_work_folder(config, tmp_path):
    refused(changed(config, selection__budget=5000.0, selection__unit="rows"), tmp_path)
    open_job(
        changed(config, selection__budget=5.0, selection__unit="rows"), epath.Path(tmp_path)
    ).check()


def test_work_folder_that_is_a_file(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be used as a work folder .*--workdir"):
        open_job(config, epath.Path(tmp_path / "file"))


@pytest.mark.parametrize("stage", ["world", "warmup", "features"])
def test_full_disk(config, tmp_path, monkeypatch, stage):
    """A disk that fills up within a stage; the same command then goes on from there."""
    real = os.fsync
    warm = changed(config, run__methods="g2is")

    def full(descriptor):
        written = os.readlink(f"/proc/self/fd/{descriptor}")
        if f"/{stage}-" in written and "attempt.json" not in written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=rf"disk full while writing .*{stage}-.*same command"):
        run_all.run(warm, epath.Path(tmp_path))
    unfinished = [name for name in stages(tmp_path) if name.endswith(".part")]
    assert [name.partition("-")[0] for name in unfinished] == [stage]
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "stages" / unfinished[0]).glob("*.tmp"))
    monkeypatch.undo()
    open_job(warm, epath.Path(tmp_path)).check()
