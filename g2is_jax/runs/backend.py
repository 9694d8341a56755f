"""What the environment asks of jax: the devices to compute on, and how types are promoted."""

from g2is_jax.runs.errors import InputError


def start_backend() -> None:
    """Starts jax's backend; InputError where JAX_PLATFORMS names one that is not there.

    Strict promotion, under which neither this project's programs nor optax's run, is switched off.

    With several processes it must come after they have joined.
    """
    import jax

    if jax.config.values["jax_numpy_dtype_promotion"] == "strict":
        print("jax_numpy_dtype_promotion=strict is not used: types are promoted as by default")
        jax.config.update("jax_numpy_dtype_promotion", "standard")
    try:
        jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where its plugin is not installed
        said = str(error).partition(" (set JAX_PLATFORMS")[0] or "no plugin for it is installed"
        raise InputError(
            f"JAX_PLATFORMS={jax.config.values['jax_platforms']}: jax finds no such device "
            f"({' '.join(said.split()).rstrip('.')}); install jax for it (pip install -e "
            "'.[cuda13]' or '.[tpu]'), or set JAX_PLATFORMS=cpu"
        ) from error
