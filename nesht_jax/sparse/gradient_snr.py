"""How far gradients stand out of their own noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nesht_jax.types import Params


def gradient_snr(loss: Callable[[Params, Any], Any], params: Params, batch: Any) -> Params:
    """Computes |mean| / (standard deviation + 10⁻¹⁰) over a batch, of the gradient by each weight.

    Growth by gradients, as RigL's, needs it; in deep reinforcement learning it is near 0.01.

    Args:
        loss: (params, sample) -> loss of one sample.
        params: where the gradient is taken.
        batch: pytree of arrays with the samples along their leading axis.

    Returns:
        Pytree like params.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), section 4.4.
    """
    gradients = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
    return jax.tree.map(lambda g: jnp.abs(g.mean(0)) / (g.std(0) + 1e-10), gradients)
