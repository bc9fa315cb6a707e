"""Virtual batch normalization. Salimans et al. 2016 (arXiv 1606.03498), section 3.4.

Every output of a layer, or channel of filters, is whitened by its mean and variance over a fixed
set of reference observations. So the statistics are a function of the params alone: a policy acts
on one observation, and its statistics are computed once an episode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from nesht_jax.policy.normalize import Normalizer
from nesht_jax.types import Params, Population, unchanged

REFERENCE = "reference"
"""Name of the axis of reference observations, over which statistics are averaged."""


class Prepared(NamedTuple):
    """Params of a member that is ready to play.

    Attributes:
        params: params as the policy's ``init`` makes them.
        statistics: means and variances of the layers' outputs for the reference observations.
    """

    params: Params
    statistics: Any


class VirtualBatch(NamedTuple):
    """Virtual batch normalization of one network, or the lack of it.

    Attributes:
        variables: params, prepared or not -> variables of the flax module.
        prepare: population -> population whose members are prepared.
    """

    variables: Callable[[Params | Prepared], dict[str, Any]]
    prepare: Callable[[Population], Population]


WITHOUT = VirtualBatch(lambda params: {"params": params}, unchanged)
"""No normalization: nothing to prepare."""


def reference_norm(*, collect: bool, name: str) -> nn.BatchNorm:
    """The norm after one layer: it reads its statistics, or computes them along ``REFERENCE``."""
    return nn.BatchNorm(
        use_running_average=not collect,
        momentum=0,  # the statistics are those of one batch, not a running average
        epsilon=1e-3,
        use_fast_variance=False,  # E[x²] - E[x]² would cancel in float32
        axis_name=REFERENCE,
        name=name,
    )


def virtual_batch(
    network: nn.Module,
    normalize: Normalizer,
    reference: Float[np.ndarray, "references o"],
) -> VirtualBatch:
    """Makes the normalization of a network.

    Args:
        network: ``Network`` with ``normalized=True``.
        normalize: normalizer of observations, without moments.
        reference: reference observations, one a row.
    """
    reference = np.asarray(reference, np.float32)

    # one member after the other: its outputs for all references fill a cache
    @jax.custom_batching.sequential_vmap
    def statistics(params: Params) -> Any:
        def collected(observation: Array) -> Any:
            _, found = network.apply(
                {"params": params},
                normalize.apply(None, observation),
                collect=True,
                mutable=["batch_stats"],
            )
            return found["batch_stats"]

        replicated = jax.vmap(collected, axis_name=REFERENCE)(jnp.asarray(reference))
        return jax.tree.map(lambda x: x[0], replicated)

    def variables(params: Params | Prepared) -> dict[str, Any]:
        if not isinstance(params, Prepared):
            params = Prepared(params, statistics(params))
        return {"params": params.params, "batch_stats": params.statistics}

    # Statistics are part of what is drawn: an environment computes them when its episode begins,
    # and holds them while it lasts.
    def draw(population: Population, i: Any) -> tuple[Any, Any]:
        drawn = population.draw(i)
        return drawn, statistics(population.assemble(drawn))

    def assemble(population: Population, drawn: tuple[Any, Any]) -> Prepared:
        return Prepared(population.assemble(drawn[0]), drawn[1])

    def prepare(population: Population) -> Population:
        return population._replace(
            draw=jax.tree_util.Partial(draw, population),
            assemble=jax.tree_util.Partial(assemble, population),
        )

    return VirtualBatch(variables, prepare)
