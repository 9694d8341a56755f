"""Programs that were compiled are counted, in the manifest of the stage that they were for."""

import jax
import numpy as np

from g2is_jax.runs.compilations import compilations
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.stages import run_stage


def test_a_program_counts_once_a_shape():
    double = jax.jit(lambda x: 2 * x)
    counts = []
    for width in (3, 3, 4):
        double(np.ones(width, np.float32)).block_until_ready()
        counts.append(compilations()[0])
    assert counts[1] == counts[0]
    assert counts[2] == counts[1] + 1
    assert compilations()[1] > 0


def test_of_a_stage_alone(tmp_path):
    jax.jit(lambda x: x + 1)(np.ones(5, np.float32))

    def build(folder):
        jax.jit(lambda x: x - 1)(np.ones(6, np.float32))
        return {}

    manifest = read_manifest(run_stage(tmp_path, "stage", {}, {}, build))
    assert manifest["compilations"] == 1
    assert manifest["compile_seconds"] >= 0
    idle = read_manifest(run_stage(tmp_path, "other", {}, {}, lambda folder: {}))
    assert (idle["compilations"], idle["compile_seconds"]) == (0, 0)
