"""What is read from the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from g2is_jax.planning.slices.compiler import compiled, device_groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", []),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("[1,4]<=[4]", [[0, 1, 2, 3]]),
        ("mesh['axis_0'=4] {'axis_0'}", [[0, 1, 2, 3]]),
        ("mesh['process'=2,'data'=2] {'data'}", [[0, 1], [2, 3]]),
        ("mesh['process'=2,'data'=2] {'process'}", [[0, 2], [1, 3]]),
        ("mesh['process'=2,'data'=2] {'process','data'}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_of_devices(text, groups):
    assert device_groups(text) == groups


@pytest.mark.parametrize("text", ["<=[4]", "mesh['a'=4] {'a':(1)2}", "[2,2]"])
def test_a_notation_that_is_not_known(text):
    with pytest.raises(ValueError, match="notation that is not known"):
        device_groups(text)


def test_a_program_without_collectives():
    shape = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    found = compiled(lambda: jax.jit(lambda x: x @ x.T).lower(shape), None)
    assert (found.argument_bytes, found.output_bytes) == (4 * 128 * 64, 4 * 128 * 128)
    assert found.collectives == found.across_hosts == {}
    assert not found.does_not_fit
