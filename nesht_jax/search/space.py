"""Finite sets of architectures, and what controllers need of them.

An architecture is an array of whole numbers, or a dictionary of such arrays: of a product of
spaces. It is drawn by logits; where all are 0 the draw is uniform.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Architecture = Any
"""Array of whole numbers, or a dictionary of architectures."""

Logits = Any
"""Array of unnormalized log-probabilities, or a dictionary of such."""


class Space(NamedTuple):
    """A set of architectures, all of one shape.

    Attributes:
        logits: logits of the uniform distribution, all 0.
        draw: (key, logits) -> architecture.
        log_prob: (logits, architecture) -> logarithm of the probability of such a draw.
        entropy: logits -> entropy of the decisions, each drawn alone, in nats.
        mode: logits -> the most probable architecture.
        mutate: (key, architecture) -> architecture with one decision drawn anew.
        canonical: architecture -> array [l] that is the same for equal architectures alone.
        decisions: how many decisions a mutation chooses among.
    """

    logits: Logits
    draw: Callable[[Key[Array, ""], Logits], Architecture]
    log_prob: Callable[[Logits, Architecture], Float[Array, ""]]
    entropy: Callable[[Logits], Float[Array, ""]]
    mode: Callable[[Logits], Architecture]
    mutate: Callable[[Key[Array, ""], Architecture], Architecture]
    canonical: Callable[[Architecture], Int[Array, " l"]]
    decisions: int


def choices(n: int, c: int) -> Space:
    """The space of n independent choices among c: masks (c = 2), colors, activations.

    A mutation draws one choice anew among all c, its present value included, as PyGlove's
    ``mutators.Uniform`` does of ``oneof``.

    Args:
        n: number of choices.
        c: alternatives of each, numbered from 0.

    Raises:
        ValueError: if there is nothing to choose.
    """
    if n < 1 or c < 1:
        raise ValueError(f"choices need at least one of each, got {n} among {c}")

    def log_prob(logits: Float[Array, "n c"], architecture: Int[Array, " n"]) -> Float[Array, ""]:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), architecture[:, None], axis=-1)
        return chosen.sum()

    def mutate(key: Key[Array, ""], architecture: Int[Array, " n"]) -> Int[Array, " n"]:
        where, what = jax.random.split(key)
        place = jax.random.randint(where, (), 0, n, jnp.int32)
        return architecture.at[place].set(jax.random.randint(what, (), 0, c, jnp.int32))

    return Space(
        logits=jnp.zeros((n, c), jnp.float32),
        draw=lambda key, logits: jax.random.categorical(key, logits).astype(jnp.int32),
        log_prob=log_prob,
        entropy=_entropy,
        mode=lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32),
        mutate=mutate,
        canonical=lambda architecture: architecture,
        decisions=n,
    )


def subset(n: int, k: int) -> Space:
    """The space of k distinct things out of n, as an array [k] of their numbers in any order.

    A draw is without replacement, each next one in proportion to e^logit (Plackett and Luce), so
    log-probabilities, of the order that was drawn, are exact. A mutation replaces one of the k by
    one that is not among them; or, one time in k + 1, all of them: as PyGlove's
    ``mutators.Uniform`` does of ``manyof(k, distinct=True)``.

    Args:
        n: how many there are.
        k: how many are taken.

    Raises:
        ValueError: if k is not in 1 ... n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"a subset of {n} must have 1 to {n}, got {k}")

    logits = jnp.zeros(n, jnp.float32)

    def draw(key: Key[Array, ""], logits: Float[Array, " n"]) -> Int[Array, " k"]:
        noise = jax.random.gumbel(key, (n,), jnp.float32)
        return jax.lax.top_k(logits + noise, k)[1].astype(jnp.int32)

    def log_prob(logits: Float[Array, " n"], architecture: Int[Array, " k"]) -> Float[Array, ""]:
        taken = logits[architecture]
        left = jax.lax.cumlogsumexp(taken, reverse=True)  # each and what is drawn after it
        if k < n:
            left = jnp.logaddexp(left, jax.nn.logsumexp(logits.at[architecture].set(-jnp.inf)))
        return (taken - left).sum()

    def mutate(key: Key[Array, ""], architecture: Int[Array, " k"]) -> Int[Array, " k"]:
        if k == n:
            return architecture
        where, what, anew = jax.random.split(key, 3)
        place = jax.random.randint(where, (), 0, k + 1, jnp.int32)
        unused = logits.at[architecture].set(-jnp.inf)
        other = jax.random.categorical(what, unused).astype(jnp.int32)
        replaced = jnp.where(jnp.arange(k) == place, other, architecture)
        return jnp.where(place == k, draw(anew, logits), replaced)

    return Space(
        logits=logits,
        draw=draw,
        log_prob=log_prob,
        entropy=_entropy,
        mode=lambda logits: jax.lax.top_k(logits, k)[1].astype(jnp.int32),
        mutate=mutate,
        canonical=jnp.sort,
        decisions=k + 1,
    )


def product(spaces: Mapping[str, Space]) -> Space:
    """The space of one architecture of each, by name; a mutation is of one decision among all.

    Args:
        spaces: spaces by name.

    Raises:
        ValueError: if there is none.
    """
    if not spaces:
        raise ValueError("a product needs at least one space")
    names = sorted(spaces)
    shares = jnp.log(jnp.array([spaces[name].decisions for name in names], jnp.float32))

    def draw(key: Key[Array, ""], logits: Logits) -> Architecture:
        keys = jax.random.split(key, len(names))
        return {
            name: spaces[name].draw(own, logits[name])
            for name, own in zip(names, keys, strict=True)
        }

    def mutate(key: Key[Array, ""], architecture: Architecture) -> Architecture:
        where, what = jax.random.split(key)
        chosen = jax.random.categorical(where, shares)
        mutants = {name: spaces[name].mutate(what, architecture[name]) for name in names}
        return {
            name: jnp.where(chosen == i, mutants[name], architecture[name])
            for i, name in enumerate(names)
        }

    def total(logits: Logits, terms: Callable[[str], Float[Array, ""]]) -> Float[Array, ""]:
        return sum((terms(name) for name in names), jnp.float32(0))

    return Space(
        logits={name: spaces[name].logits for name in names},
        draw=draw,
        log_prob=lambda logits, architecture: total(
            logits, lambda name: spaces[name].log_prob(logits[name], architecture[name])
        ),
        entropy=lambda logits: total(logits, lambda name: spaces[name].entropy(logits[name])),
        mode=lambda logits: {name: spaces[name].mode(logits[name]) for name in names},
        mutate=mutate,
        canonical=lambda architecture: jnp.concatenate(
            [spaces[name].canonical(architecture[name]) for name in names]
        ),
        decisions=sum(space.decisions for space in spaces.values()),
    )


def _entropy(logits: Float[Array, "*n c"]) -> Float[Array, ""]:
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum()
