"""How many programs XLA has compiled in this process, and in how many seconds."""

import functools

COMPILED = "/jax/core/compile/backend_compile_duration"


@functools.cache
def _noted() -> list[float]:
    """Seconds of each compilation from the first call on."""
    import jax

    seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return seconds


def compilations() -> tuple[int, float]:
    """(programs, seconds) since the first call; programs from jax's persistent cache count with the
    time that reading them takes."""
    return len(_noted()), sum(_noted())
