"""The kernel for TPUs, compiled for one without having one: `libtpu` holds the compiler."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compilation import AS_USERS_DO

ROOT = Path(__file__).parents[2]
# Name -> tokens, heads, kv heads, width of a head, window, cap, whether rows are packed.
CASES = {
    "llama": (2048, 8, 2, 128, None, None, False),
    "llama_packed": (2048, 8, 2, 128, None, None, True),
    "gemma2": (2048, 4, 2, 256, 1000, 50.0, True),
    "smollm": (1100, 9, 3, 64, None, None, False),  # blocks of 384
    "tiny": (150, 6, 2, 10, 37, None, True),
}
ENVIRONMENT = AS_USERS_DO | {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU to ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
}


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_compiles_for_a_tpu():
    """Forward and backward, under vmap; the products of queries and keys are never in memory."""
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == CASES.keys()
    for name, (tokens, heads, *_) in CASES.items():
        kernels, temporaries = found[name]
        assert kernels == 3, name  # forward, and the gradients of queries and of keys and values
        if tokens > 1000:
            assert temporaries < heads * tokens**2, name  # half of the products in bfloat16


def compiled(topology, tokens, heads, kv_heads, head_dim, window, softcap, packed):
    """The gradient of two rows, compiled: its kernels, and its temporaries in bytes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from g2is_jax.model.kernels import attend

    mesh = jax.sharding.Mesh(np.array(topology.devices), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P())

    def loss(q_BTHD, k_BTKD, v_BTKD, segments_BT):
        def of_row(q_THD, k_TKD, v_TKD, segments_T):
            segments_T = segments_T if packed else None
            return attend("splash", q_THD, k_TKD, v_TKD, segments_T, window, 0.1, softcap)

        return jnp.sum(jax.vmap(of_row)(q_BTHD, k_BTKD, v_BTKD, segments_BT) ** 2)

    shapes = [
        jax.ShapeDtypeStruct((2, tokens, n, head_dim), jnp.bfloat16, sharding=sharding)
        for n in (heads, kv_heads, kv_heads)
    ]
    segments = jax.ShapeDtypeStruct((2, tokens), jnp.int32, sharding=sharding)
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, segments).compile()
    kernels = program.as_text().count('custom_call_target="tpu_custom_call"')
    return kernels, program.memory_analysis().temp_size_in_bytes


def main() -> None:
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1)
    )
    print(json.dumps({name: compiled(topology, *case) for name, case in CASES.items()}))


if __name__ == "__main__":
    main()
