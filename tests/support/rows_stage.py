"""A stage of one file, for the tests of stages and manifests."""

from etils import epath

SETTINGS = {"walk": {"delta": 0.7, "widths": (1, 2)}, "seed": 0}
INPUTS = {"pool": "abc"}


def build_rows(part: epath.Path) -> dict:
    """Fills the stage's folder, and returns its counts."""
    (part / "rows.txt").write_text("rows")
    return {"rows": 4}


def must_not_build(part: epath.Path) -> dict:
    """Fails where a finished stage is built again."""
    raise AssertionError("built again")
