"""The command line: flags, exit status, and one line on stderr for a user's mistake."""

import os
import subprocess
import sys

import pytest

from experiments import launch
from g2is_jax.runs.errors import InputError, StoreLost
from tests.support.forked import fork_each
from tests.support.small import ROOT, stages

TINY = ROOT / "configs" / "tiny.py"
ROW = ROOT / "configs" / "reproduce.py"  # takes an argument

# name -> (arguments after --config=configs/tiny.py --workdir=..., what stderr says after `error: `)
MISTAKES = {
    "near field": (["--config.walk.dleta=0.7"], "did you mean walk.delta?"),
    "near field of another section": (["--config.budget=3"], "did you mean selection.budget?"),
    "section": (["--config.walk=3"], "--config.walk: there is no such config field; did you"),
    "no field like it": (["--config.zzz=3"], "--config.zzz: there is no such config field; see"),
    "text for a number": (["--config.lora.rank=many"], "config.lora.rank"),
    "fraction for a whole number": (["--config.lora.rank=1.5"], "config.lora.rank"),
    "text for a switch": (["--config.model.remat=perhaps"], "config.model.remat"),
    "unknown flag": (["--colour=red"], "colour"),
    "not a flag": (["walk.delta=0.7"], "'walk.delta=0.7' is not a flag; flags look like"),
    "method": (["--config.run.methods=best"], "run.methods: 'best' is unknown; choose from none"),
    "seeds": (["--config.run.seeds=one"], "run.seeds: 'one' is not a whole number"),
    "schedule": (["--config.warmup.schedule=step"], "warmup.schedule = 'step' is unknown; choose"),
    "missing pool": (["--config.data.pool=gone.jsonl", "--config.data.validation=v.jsonl",
                      "--config.data.test=t.jsonl"], "gone.jsonl: no such file; check data.pool"),
    "missing checkpoint": (["--config.model.checkpoint=gone"], "gone: no such folder, and not"),
}  # fmt: skip
WHOLE = {
    "missing config": (["--config=gone.py", "--workdir=w"], "gone.py: no such config file; start"),
    "missing config, two words": (["--config", "gone.py", "--workdir=w"], "gone.py"),
    "no config": (["--workdir=w"], "--config"),
    "no workdir": ([f"--config={TINY}"], "--workdir"),
    "slip in the config file": (["--config=SLIP", "--workdir=w"], 'Did you mean "walk" instead'),
    "wrong type in the config file": (["--config=TYPE", "--workdir=w"], "epochs"),
    "argument": (
        [f"--config={ROW}:pool=news", "--workdir=w"],
        "error: configs/reproduce.py: pool 'news' is unknown; choose from infinity, cot, flan, as "
        "in --config=configs/reproduce.py:model=llama31_8b,target=gsm8k,pool=infinity",
    ),
    "empty argument": (
        [f"--config={ROW}:", "--workdir=w"],
        "key '' is unknown; choose from model, target",
    ),
    "argument for a config without one": ([f"--config={TINY}:cot", "--workdir=w"], "argument"),
    "near field beside an argument": (
        [f"--config={ROW}:pool=cot", "--config.walk.dleta=0.7", "--workdir=w"],
        "did you mean walk.delta?",
    ),
    "good argument": (
        [f"--config={ROW}:pool=cot", "--workdir=w"],
        "cot_collection.jsonl: no such file",
    ),
    "argument, two words": (
        ["--config", f"{ROW}:pool=flan,target=mmlu", "--workdir=w"],
        "flan.jsonl: no such file",
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict]:
    """How each mistaken command ended, all run from one process that has the imports."""
    folder = tmp_path_factory.mktemp("launch")
    start = f"import runpy\n\n\ndef get_config():\n    c = runpy.run_path({str(TINY)!r})"
    for name, line in (("SLIP", "c.wolk.delta = 0.5"), ("TYPE", "c.warmup.epochs = 'four'")):
        text = f"{start}['get_config']()\n    {line}\n    return c\n"
        (folder / f"{name}.py").write_text(text)
    argvs = {
        name: [f"--config={TINY}", f"--workdir={folder / name}", *flags]
        for name, (flags, _) in MISTAKES.items()
    }
    for name, (flags, _) in WHOLE.items():
        argvs[name] = [flag.replace("SLIP", f"{folder}/SLIP.py") for flag in flags]
        argvs[name] = [flag.replace("TYPE", f"{folder}/TYPE.py") for flag in argvs[name]]
        argvs[name] = [flag.replace("=w", f"={folder / name}") for flag in argvs[name]]
    ended = fork_each([{"argv": argv} for argv in argvs.values()], folder)
    outcomes = dict(zip(argvs, ended, strict=True))
    for name in argvs:
        outcomes[name]["stages"] = stages(folder / name)
    return outcomes


@pytest.mark.parametrize(
    ("name", "reported"), [(n, t) for n, (_, t) in {**MISTAKES, **WHOLE}.items()]
)
def test_mistake_is_one_line_and_status_2(outcomes, name, reported):
    outcome = outcomes[name]
    assert outcome["status"] == 2, outcome
    assert outcome["stderr"].count("\n") == 1
    assert outcome["stderr"].startswith("error: ")
    assert reported in outcome["stderr"]
    assert not [stage for stage in outcome["stages"] if not stage.startswith("world-")]


def test_one_real_command(tmp_path):
    """The module as a user starts it, with nothing forked and a folder that it may not use."""
    (tmp_path / "taken").write_text("")
    command = [sys.executable, "-m", "experiments.warmup", f"--config={TINY}"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'taken'}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'taken'}: cannot be used as a work folder")
    assert done.stderr.count("\n") == 1


def test_ascii_output_and_no_such_device(tmp_path):
    """Other letters than ASCII are escaped, and a device that is not there is named."""
    (tmp_path / "p\u00e4.jsonl").write_text("")
    names = [f"--config.data.{part}={tmp_path}/p\u00e4.jsonl" for part in ("pool", "validation")]
    command = [sys.executable, "-m", "experiments.select_subset", f"--config={TINY}", *names]
    ended = {}
    for platforms in ("cpu", "gpux"):
        more = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "JAX_PLATFORMS": platforms}
        ended[platforms] = subprocess.run(
            [*command, f"--workdir={tmp_path / 'work'}"],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert [done.returncode for done in ended.values()] == [2, 2]
    assert "p\\xe4.jsonl: no rows; expected" in ended["cpu"].stderr
    assert ended["gpux"].stderr.startswith("error: JAX_PLATFORMS=gpux: jax finds no such device (")
    assert all(done.stderr.count("\n") == 1 for done in ended.values())


def test_a_text_of_the_data_does_not_steer_the_terminal(capsys, monkeypatch):
    def refuse(*_, **__):
        raise InputError('row "a\x1b[2J\n\u202eé漢" is odd')

    monkeypatch.setattr(launch.app, "run", refuse)
    with pytest.raises(SystemExit) as ended:
        launch.run_or_explain(print, parse=list)
    assert ended.value.code == 2
    assert capsys.readouterr().err == 'error: row "a\\x1b[2J\\n\\u202eé漢" is odd\n'


def test_several_mistakes_are_a_line_each(capsys, monkeypatch):
    def fail(*_, **__):
        raise InputError("a.jsonl:1: no reply", "a.jsonl:2: no\nprompt")

    monkeypatch.setattr(launch.app, "run", fail)
    with pytest.raises(SystemExit):
        launch.run_or_explain(fail, fail)
    assert capsys.readouterr().err == "error: a.jsonl:1: no reply\na.jsonl:2: no\\nprompt\n"


def test_a_lost_store_asks_for_the_same_command_again(capsys, monkeypatch):
    def lose(*_, **__):
        raise StoreLost("gs://bucket: the store cannot be reached")

    monkeypatch.setattr(launch.app, "run", lose)
    with pytest.raises(SystemExit) as ended:
        launch.run_or_explain(print, parse=list)
    assert ended.value.code == 75
    assert capsys.readouterr().err == "error: gs://bucket: the store cannot be reached\n"
