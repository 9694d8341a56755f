"""A backend that is not there is one line; strict promotion is switched off and said."""

import jax
import pytest

from g2is_jax.runs.backend import start_backend
from g2is_jax.runs.errors import InputError


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("Unable to initialize backend 'cuda': no\ndevice. (set JAX_PLATFORMS='')"),
         "Unable to initialize backend 'cuda': no device"),
        (AssertionError(), "no plugin for it is installed"),
    ],
)  # fmt: skip
def test_a_backend_that_is_not_there(monkeypatch, raised, said):
    def fail():
        raise raised

    monkeypatch.setattr(jax, "default_backend", fail)
    with pytest.raises(InputError) as caught:
        start_backend()
    assert str(caught.value) == (
        f"JAX_PLATFORMS=cpu: jax finds no such device ({said}); install jax for it "
        "(pip install -e '.[cuda13]' or '.[tpu]'), or set JAX_PLATFORMS=cpu"
    )


def test_strict_promotion_is_switched_off(capsys):
    with jax.numpy_dtype_promotion("strict"):
        start_backend()
        assert capsys.readouterr().out.startswith("jax_numpy_dtype_promotion=strict is not used")


def test_other_promotion_is_left_alone(capsys):
    start_backend()
    assert capsys.readouterr().out == ""
