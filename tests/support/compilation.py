"""How the suite compiles: quickly, as it runs most of its programs once or twice.

`tests/conftest.py` sees to it. Without optimisations, and with XLA's older emitter of loops on
a CPU, a program is there in a quarter of the time. Nothing but time depends on the flag;
take it out where a jaxlib no longer knows it. Tests of what the compiler makes of a program, its
bits and its memory, ask for the fixture `optimised`.
"""

XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false"
AS_USERS_DO = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}


def many_devices(count: int, flags: str = XLA_FLAGS) -> dict[str, str]:
    """The variables of a process with so many virtual devices."""
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}".strip()}
