"""A work folder takes the runs of the config that it was started with, and no other."""

import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.workdir import claim_workdir

CONFIG = {"walk": {"delta": 0.7, "caps": (1, 2)}, "run": {"log_every": 5}, "seed": 0}
FREE = ("run.log_every",)


def failure(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_workdir_is_claimed_once(tmp_path):
    folder = tmp_path / "new" / "work"
    claim_workdir(folder, CONFIG, FREE, replace=False)
    written = (folder / "config.json").read_text()
    claim_workdir(folder, CONFIG, FREE, replace=False)
    claim_workdir(folder, {**CONFIG, "run": {"log_every": 9}}, FREE, replace=False)
    claim_workdir(folder, {**CONFIG, "run": {"log_every": 9}}, ("run",), replace=False)
    assert (folder / "config.json").read_text() == written


def test_workdir_of_another_config_is_refused(tmp_path):
    claim_workdir(tmp_path, CONFIG, FREE, replace=False)
    other = {"walk": {"delta": 0.5}, "run": {"log_every": 9}, "seed": 0, "pool": "a.jsonl"}
    message = failure(lambda: claim_workdir(tmp_path, other, FREE, replace=False))
    assert message == (
        f'{tmp_path}: started with another config: pool is "a.jsonl", was absent; '
        "walk.caps is absent, was [1, 2]; walk.delta is 0.5, was 0.7; "
        "choose another --workdir, or set run.replace to overwrite it"
    )
    claim_workdir(tmp_path, other, FREE, replace=True)
    claim_workdir(tmp_path, other, FREE, replace=False)
    failure(lambda: claim_workdir(tmp_path, CONFIG, FREE, replace=False))


def test_free_field_covers_no_namesake(tmp_path):
    claim_workdir(tmp_path, {"run": {"log": 1, "log_every": 1}}, (), replace=False)
    changed = {"run": {"log": 1, "log_every": 2}}
    message = failure(lambda: claim_workdir(tmp_path, changed, ("run.log",), replace=False))
    assert "run.log_every is 2, was 1" in message


def test_a_field_may_come_later(tmp_path):
    def claim(test: str) -> None:
        config = {"data": {"pool": "a.jsonl", "test": test}}
        claim_workdir(tmp_path, config, (), False, later_fields=("data.test",))

    for test in ("", "t.jsonl", "", "t.jsonl"):
        claim(test)
    message = failure(lambda: claim("u.jsonl"))
    assert 'data.test is "u.jsonl", was "t.jsonl"' in message


def test_many_differences_are_counted(tmp_path):
    claim_workdir(tmp_path, {f"f{i}": 0 for i in range(5)}, (), replace=False)
    changed = {f"f{i}": 1 for i in range(5)}
    message = failure(lambda: claim_workdir(tmp_path, changed, (), replace=False))
    assert "f2 is 1, was 0 (and 2 more); choose" in message


def test_unusable_workdir(tmp_path):
    (tmp_path / "config.json").write_text("{")
    message = failure(lambda: claim_workdir(tmp_path, CONFIG, FREE, replace=False))
    assert message.startswith(f"{tmp_path}/config.json: not a readable config")
    message = failure(lambda: claim_workdir(tmp_path / "config.json", CONFIG, FREE, replace=False))
    assert "cannot be used as a work folder (" in message
