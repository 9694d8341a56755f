import pytest

from g2is_jax.selection.rivals import coverage, gip, similarity


@pytest.fixture
def _small_blocks(monkeypatch):
    """Rivals read and rank their rows a few at a time."""
    monkeypatch.setattr(similarity, "BLOCK", 6)
    monkeypatch.setattr(coverage, "FIRST", 2)
    monkeypatch.setattr(coverage, "MOST", 5)
    monkeypatch.setattr(gip, "BATCH", 3)
