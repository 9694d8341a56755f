"""Counts the programs that XLA compiles in this process, and their seconds."""

import functools

COMPILED = "/jax/core/compile/backend_compile_duration"


@functools.cache
def _noted() -> list[float]:
    """Returns the seconds of each compilation from the first call on; the list grows."""
    import jax

    seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return seconds


def compilations() -> tuple[int, float]:
    """Returns (programs, seconds) since the first call.

    Programs from jax's persistent cache count with the time that reading them takes.
    """
    return len(_noted()), sum(_noted())
