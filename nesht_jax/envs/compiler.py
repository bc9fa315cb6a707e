"""How XLA should compile the loop around a simulator that is written in JAX."""

import functools

import jax


@functools.cache
def compiler_options() -> dict[str, str]:
    """Gives ``jax.jit(..., compiler_options=...)`` of the outermost function; JAX refuses others.

    On a CPU XLA hands large batches of small matrix products to YNNPACK, which is slower at them
    than XLA's own loops; MJX's solver is made of such products. A JAX that does not know the option
    compiles as it does by default.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
