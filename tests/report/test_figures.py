"""The figures are drawn from what they are given, and written whole."""

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from g2is_jax.report.figures import plot_explained, plot_similarities
from g2is_jax.selection.core import Core


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig

    def keep(self, *arguments, **settings):
        figures.append(self)
        return save(self, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_explained_variance(tmp_path, drawn):
    file = epath.Path(tmp_path / "explained.png")
    explained_C = np.array([0.5, 0.25, 0.125, 0.125])
    plot_explained(Core(np.eye(4)[:2], np.array([2, 1]) / 3, explained_C, 2), file)
    assert file.read_bytes().startswith(b"\x89PNG")
    each, running = drawn[0].axes
    assert [bar.get_height() for bar in each.patches] == explained_C.tolist()
    assert each.get_legend().get_texts()[0].get_text() == "2 kept"
    assert running.lines[0].get_ydata().tolist() == [0.5, 0.75, 0.875, 1]
    assert running.get_title() == "2 components explain 75.0%"


def test_similarities(tmp_path, drawn):
    file = epath.Path(tmp_path / "similarities.png")
    plot_similarities([1, 3, 0, 0], [0, 0, 0, 5], file)
    assert file.read_bytes().startswith(b"\x89PNG")
    pairs, stored = (patch.get_data() for patch in drawn[0].axes[0].patches)
    assert pairs.values.tolist() == [0.25, 0.75, 0, 0]
    assert stored.values.tolist() == [0, 0, 0, 1]
    assert pairs.edges.tolist() == [-1, -0.5, 0, 0.5, 1]
    plot_similarities([0, 0], [0, 0], file)  # a pool of one row
