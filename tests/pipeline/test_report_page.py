"""What the page takes from stages that other scripts leave."""

import json

from g2is_jax.pipeline.report_page import validation_curves
from g2is_jax.runs.stages import run_stage

POINTS = [{"epoch": 0, "validation_loss": 2.5}, {"epoch": 1, "validation_loss": 1.5}]


def test_validation_curves_of_finished_stages(tmp_path):
    """By fine-tune and validation rows; one at work does not count."""

    def build(folder):
        (folder / "curve.json").write_text(json.dumps(POINTS))
        return {}

    assert validation_curves(tmp_path) == {}
    inputs = {"adapter": "of-tune", "validation": "of-rows", "model/config.json": "x"}
    folder = run_stage(tmp_path, "curve", {}, inputs, build)
    at_work = folder.parent / "curve-0123456789ab.part"
    at_work.mkdir()
    build(at_work)
    assert validation_curves(tmp_path) == {("of-tune", "of-rows"): [(0, 2.5), (1, 1.5)]}
