"""What TensorBoard and Weights & Biases get: the lines of the metrics logs, read back."""

import json
import os
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest
from etils import epath

from g2is_jax.pipeline.trackers import tracked, tracking
from g2is_jax.pipeline.warmup_stage import run
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import MetricsLog
from tests.support.small import ROOT
from tests.support.small_job import changed, write_config

BLOCK, WHOLE, LAST = 32_768, 1, 4  # of a log: bytes of a block, kinds of parts
Points = dict[tuple[str, str], list[tuple[int, float]]]  # (stage, name) -> (step, value)


def logged(workdir) -> Points:
    """The metrics logs of a work folder."""
    points: Points = defaultdict(list)
    for file in workdir.glob("stages/*/metrics.jsonl"):
        for line in file.read_text().splitlines():
            values = json.loads(line)
            step = values.pop("step")
            for name, value in values.items():
                points[file.parent.name, name].append((step, value))
    return points


def of_tensorboard(workdir) -> Points:
    """The scalars of the event files: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    points: Points = defaultdict(list)
    for file in workdir.glob("trackers/tensorboard/*/events*"):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            for value in event.summary.value:
                points[file.parent.name, value.tag].append((event.step, value.simple_value))
            place += 16 + length
    return points


def records(data: bytes) -> Iterator[bytes]:
    """The messages of a log of Weights & Biases: parts in blocks, after a head of seven bytes."""
    place, message = 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # no room for a part's head
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            yield message
            message = b""


def of_wandb(workdir) -> Points:
    """The history of the offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    points: Points = defaultdict(list)
    [file] = workdir.glob("trackers/wandb/offline-run-*/run-*.wandb")
    for message in records(file.read_bytes()):
        found = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in Record.FromString(message).history.item
        }
        for key, value in found.items():
            stage, _, name = key.partition("/")
            if name and name != "step":
                points[stage, name].append((found[f"{stage}/step"], value))
    return points


def same(found: Points, expected: Points) -> bool:
    return found.keys() == expected.keys() and all(
        [step for step, _ in found[key]] == [step for step, _ in expected[key]]
        and [value for _, value in found[key]] == pytest.approx([v for _, v in expected[key]])
        for key in expected
    )


def test_both_have_every_line_of_a_run(config, tmp_path):
    """In a process of its own, offline; the stage and the numbers are those of the log."""
    asked = changed(config, run__trackers="tensorboard,wandb", warmup__batch_size=4)
    flags = [f"--config={write_config(tmp_path / 'c.py', asked)}", f"--workdir={tmp_path / 'w'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.warmup", *flags],
        cwd=ROOT,
        env=os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    expected = logged(tmp_path / "w")
    assert {name for _, name in expected} == {"loss", "tokens", "learning_rate"}
    assert same(of_tensorboard(tmp_path / "w"), expected)
    assert same(of_wandb(tmp_path / "w"), expected)


def test_without_them_nothing_of_theirs_is_imported(config, tmp_path):
    code = (
        "import sys; from etils import epath; from experiments import launch; "
        "from g2is_jax.pipeline.trackers import tracking; from configs import default; "
        "tracking(lambda config, place: None)(default.get_config(), epath.Path('x')); "
        "sys.exit(bool({'wandb', 'tensorboardX'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_they_see_no_more_once_a_run_has_ended(config, tmp_path):
    asked = changed(config, run__trackers="tensorboard")
    tracking(run)(asked, epath.Path(tmp_path))
    before = of_tensorboard(tmp_path)
    assert same(before, logged(tmp_path))
    MetricsLog(tmp_path / "stages/later/metrics.jsonl").write(0, loss=1.0)
    assert of_tensorboard(tmp_path) == before


def test_what_is_refused(config, tmp_path, monkeypatch):
    with (
        pytest.raises(InputError, match=r"run\.trackers: 'mlflow' is unknown; choose from tensor"),
        tracked(changed(config, run__trackers="mlflow"), epath.Path(tmp_path)),
    ):
        pass
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with (
        pytest.raises(InputError, match=r"tensorboard, which needs the extra \[track\]"),
        tracked(changed(config, run__trackers="tensorboard"), epath.Path(tmp_path)),
    ):
        pass
