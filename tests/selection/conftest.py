import pytest

from g2is_jax.selection.rivals import coverage, influence


@pytest.fixture
def _small_blocks(monkeypatch):
    """Rivals read and rank their rows a few at a time."""
    monkeypatch.setattr(influence, "BLOCK", 6)
    monkeypatch.setattr(coverage, "FIRST", 2)
    monkeypatch.setattr(coverage, "MOST", 5)
