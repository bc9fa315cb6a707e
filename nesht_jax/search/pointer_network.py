"""Subsets drawn by a pointer network: each choice depends on those before it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.search.space import Space, subset


def pointer_network(n: int, k: int, *, width: int = 32) -> Space:
    """The space of k distinct things out of n, whose logits are the weights of a pointer network.

    A recurrent cell (LSTM) reads an embedding of what was taken last; the logit of each thing that
    is left is the product of its embedding and a linear map of the cell's output. That map is 0 at
    first, so the first draws are uniform. ``policy_gradient`` trains it as it trains plain logits,
    which cannot make one choice depend on another; but a draw takes k steps, one after the other.

    Args:
        n: how many there are.
        k: how many are taken.
        width: numbers of an embedding, and of the cell's output.

    Raises:
        ValueError: if k is not in 1 ... n.

    Reference: Vinyals et al. 2015 (arXiv 1506.03134); Song et al. 2021 (ES-ENAS, arXiv 2101.07415),
    appendix C.1.2, which names the network without its sizes.
    """
    plain = subset(n, k)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 3)
    scale = width**-0.5
    weights = {
        "embedding": jax.random.normal(keys[0], (n, width), jnp.float32),
        "first": jax.random.normal(keys[1], (width,), jnp.float32),
        "cell": scale * jax.random.normal(keys[2], (2 * width, 4 * width), jnp.float32),
        "query": jnp.zeros((width, width), jnp.float32),
    }

    def step(weights: Any, memory: Any, taken: Bool[Array, " n"]) -> Any:
        """Logits of what is left, and the memory after it was asked."""
        read, (output, cell) = memory
        gates = jnp.concatenate([read, output]) @ weights["cell"]
        i, f, g, o = jnp.split(gates, 4)
        cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        output = jax.nn.sigmoid(o) * jnp.tanh(cell)
        logits = weights["embedding"] @ (output @ weights["query"])
        return jnp.where(taken, -jnp.inf, logits), (output, cell)

    def walk(weights: Any, given: Any, choose: Any) -> Any:
        """Architecture, its log-probability, and the entropy along it; one of ``given`` a step."""

        def one(carry: Any, told: Any) -> Any:
            taken, memory = carry
            logits, kept = step(weights, memory, taken)
            chosen = choose(told, logits)
            log_p = jax.nn.log_softmax(logits)
            finite = jnp.where(taken, 0.0, log_p)
            entropy = -jnp.sum(jnp.exp(finite) * finite, where=~taken)
            memory = weights["embedding"][chosen], kept
            return (taken.at[chosen].set(True), memory), (chosen, log_p[chosen], entropy)

        zeros = jnp.zeros(width, jnp.float32)
        start = jnp.zeros(n, bool), (weights["first"], (zeros, zeros))
        architecture, log_p, entropy = jax.lax.scan(one, start, given)[1]
        return architecture, log_p.sum(), entropy.sum()

    def sampled(key: Key[Array, ""], logits: Float[Array, " n"]) -> Int[Array, ""]:
        return jax.random.categorical(key, logits).astype(jnp.int32)

    def highest(told: Any, logits: Float[Array, " n"]) -> Int[Array, ""]:
        return jnp.argmax(logits).astype(jnp.int32)

    nothing = jnp.zeros(k, jnp.int32)
    return plain._replace(
        logits=weights,
        draw=lambda key, weights: walk(weights, jax.random.split(key, k), sampled)[0],
        log_prob=lambda weights, given: walk(weights, given, lambda told, logits: told)[1],
        entropy=lambda weights: walk(weights, nothing, highest)[2],
        mode=lambda weights: walk(weights, nothing, highest)[0],
    )
