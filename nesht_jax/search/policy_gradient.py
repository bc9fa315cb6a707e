"""Policy gradient: logits that follow the clipped objective of PPO."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from nesht_jax.es.shaping import standardize
from nesht_jax.search.controller import Controller, take
from nesht_jax.search.space import Architecture, Logits, Space

LARGEST = 20.0
"""Largest change of a log-probability that the objective tells apart."""


class PolicyGradientState(NamedTuple):
    """The distribution that is proposed from.

    Attributes:
        logits: logits of the space.
        optimizer: state of its optimizer.
    """

    logits: Logits
    optimizer: Any


def policy_gradient(
    space: Space,
    *,
    learning_rate: float = 0.02,
    batch: int = 64,
    updates: int = 4,
    clip: float = 0.2,
    entropy: float = 0.0,
) -> Controller:
    """Proposes draws by logits, which ascend E min(r A, clip(r, 1 ± c) A) + h H(logits) by Adam.

    r is the probability of an architecture over that when it was proposed, A its fitness,
    standardized over the proposals. Each decision has logits of its own, so a ``subset`` is drawn
    as Plackett and Luce do: a pointer network without its recurrence.

    Args:
        space: what to propose from.
        learning_rate: step size of Adam.
        batch: proposals in one step, drawn without replacement; all where there are fewer.
        updates: steps after each generation.
        clip: c.
        entropy: h, in units of standardized fitness per nat: of many decisions little is much.

    Raises:
        ValueError: if a batch or the number of updates is not positive.

    Reference: Schulman et al. 2017 (PPO, arXiv 1707.06347), equation 7; Song et al. 2021 (ES-ENAS,
    arXiv 2101.07415), appendix C.1.2, which names the batch alone.
    """
    if batch < 1 or updates < 1:
        raise ValueError(f"batch and updates must be at least 1, got {batch} and {updates}")
    optimizer = optax.adam(learning_rate)
    log_probs = jax.vmap(space.log_prob, (None, 0))

    def init(key: Key[Array, ""]) -> PolicyGradientState:
        return PolicyGradientState(space.logits, optimizer.init(space.logits))

    def propose(
        state: PolicyGradientState, key: Key[Array, ""], i: int | Int[Array, ""]
    ) -> Architecture:
        return space.draw(jax.random.fold_in(key, i), state.logits)

    def loss(
        logits: Logits,
        architectures: Architecture,
        advantage: Float[Array, " b"],
        before: Float[Array, " b"],
    ) -> Float[Array, ""]:
        # beyond this the ratio is far outside the clip, and e^x may leave the range of float32
        change = jnp.clip(log_probs(logits, architectures) - before, -LARGEST, LARGEST)
        ratio = jnp.exp(change)
        clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
        gain = jnp.minimum(ratio * advantage, clipped * advantage).mean()
        return -(gain + entropy * space.entropy(logits))

    def update(
        state: PolicyGradientState,
        key: Key[Array, ""],
        architectures: Architecture,
        fitness: Float[Array, " p"],
    ) -> PolicyGradientState:
        p = fitness.shape[0]
        advantage = standardize(fitness)
        before = log_probs(state.logits, architectures)

        def step(state: PolicyGradientState, key: Key[Array, ""]) -> Any:
            order = jax.random.uniform(key, (p,), jnp.float32)
            some = jax.lax.top_k(order, min(batch, p))[1]
            chosen = take((architectures, advantage, before), some)
            descent = jax.grad(loss)(state.logits, *chosen)
            updates, moments = optimizer.update(descent, state.optimizer, state.logits)
            return PolicyGradientState(optax.apply_updates(state.logits, updates), moments), None

        return jax.lax.scan(step, state, jax.random.split(key, updates))[0]

    return Controller(
        space.canonical, init, propose, update, lambda state: space.mode(state.logits)
    )
