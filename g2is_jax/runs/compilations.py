"""How many programs XLA has compiled in this process, and in how many seconds."""

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
_seconds: list[float] = []


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    if event == COMPILED:
        _seconds.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_note)


def compilations() -> tuple[int, float]:
    """(programs, seconds) so far; programs from jax's persistent cache count with the time that
    reading them takes."""
    return len(_seconds), sum(_seconds)
