"""ES-ENAS: the fitness that trains the weights also trains what proposes the architectures.

params --noise--> θ_i --[materialize with architecture_i]--> population --[Evaluate]--> fitness
   ^                          ^                                                          |  |
   |                          +-- propose <-- controller <-- objective <-----------------+  |
   +------------------------------------ the algorithm's own update <-----------------------+
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from nesht_jax.es.checks import checked_fitness
from nesht_jax.es.nes import Algorithm, Info, State, generation_keys
from nesht_jax.es.shaping import failed, identity, standardize
from nesht_jax.policy.structure import Structure
from nesht_jax.search.controller import Controller, take
from nesht_jax.search.space import Architecture
from nesht_jax.types import Params, Population, center_of

Objective = Callable[[Float[Array, " p"], Int[Array, " p"], Int[Array, ""]], Float[Array, " p"]]
"""(fitness, living entries of the kernels, generation) -> what is to be maximized, of all members.
"""

SHIFT = 10.0
"""Deviations of fitness that a target cuts in proportion: all but the few that are worse."""

PROPOSALS, UPDATE, INIT = 0x5EA_0001, 0x5EA_0002, 0x5EA_0003
"""What is folded into keys for the draws of controllers: no direction has such a number."""


def es_enas(
    algorithm: Algorithm,
    controller: Controller,
    structure: Structure,
    *,
    num_members: int,
    num_center: int = 0,
    every: int = 1,
    samples: int | None = None,
    objective: Objective | None = None,
    weights_objective: Objective | None = None,
) -> Algorithm:
    """Makes any algorithm search architectures too, at the cost of no further episode.

    Member i plays θ_i, as the algorithm perturbs it, with an architecture of its own, both of a
    mirrored pair too. After the m members come those that play the center θ, to rate architectures
    without the perturbations' noise. The controller learns from the fitness of all, the algorithm
    from that of the first m.

    Args:
        algorithm: what improves θ.
        controller: what proposes architectures.
        structure: what makes params of a policy from both.
        num_members: m of the algorithm.
        num_center: members that play the center; an evaluation must play m + num_center.
        every: generations that keep their architectures; the controller learns from the last.
        samples: how many members, drawn anew in each generation, the controller learns from; None:
            all.
        objective: what the controller maximizes; None: fitness.
        weights_objective: what the algorithm maximizes; None: fitness.

    Raises:
        ValueError: if ``num_center`` is negative, ``every`` is not positive, or there are fewer
            members than samples.

    Reference: Song et al. 2021 (arXiv 2101.07415), algorithm 1 and sections 5.5 and 5.6.
    """
    total = num_members + num_center
    if num_center < 0 or every < 1:
        raise ValueError(f"num_center and every must be at least 0 and 1: {num_center}, {every}")
    if samples is not None and not 1 <= samples <= total:
        raise ValueError(f"samples must be 1 to {total}, the members of all, got {samples}")
    everybody = jnp.arange(total, dtype=jnp.int32)

    def init(key: Any, params: Params, **options: Any) -> State:
        """The state before the first generation; ``params`` are θ."""
        state = algorithm.init(key, params, **options)
        return state._replace(search=controller.init(jax.random.fold_in(key, INIT)))

    def propose(state: State, i: int | Int[Array, ""]) -> Architecture:
        return controller.propose(state.search, proposal_key(state, every), i)

    def theta(state: State, i: int | Int[Array, ""]) -> Params:
        moved = algorithm.member(state, jnp.minimum(i, num_members - 1))
        if not num_center:
            return moved
        center = center_of(state.params, state.optimizer)
        return jax.tree.map(lambda x, c: jnp.where(i < num_members, x, c), moved, center)

    def member(state: State, i: int | Int[Array, ""]) -> Params:
        """Params that the policy of member i takes."""
        return structure.materialize(propose(state, i), theta(state, i))

    def population(state: State) -> Population:
        return Population(jax.tree_util.Partial(member, state))

    def ask(state: State) -> Params:
        return jax.vmap(member, (None, 0))(state, everybody)

    def facts(state: State, i: Int[Array, ""]) -> Any:
        """Architecture of member i, its hash, and how many entries of its kernels live."""
        architecture = propose(state, i)
        living = structure.edges(architecture, theta(state, i)).sum(dtype=jnp.int32)
        return architecture, _hash(controller.canonical(architecture)), living

    def tell(
        state: State, fitness: Float[Array, " p"], *, observed: Any = None
    ) -> tuple[State, Info]:
        """One update of both from the fitness of all members, to be maximized.

        The controller is told the worst finite fitness in place of what is not finite, and nothing
        if all is.
        """
        fitness, now = checked_fitness(fitness, total), state.generation
        architectures, hashes, sizes = jax.vmap(facts, (None, 0))(state, everybody)
        goal = fitness if weights_objective is None else weights_objective(fitness, sizes, now)
        told, info = algorithm.tell(state, goal[:num_members], observed=observed)

        goal = identity(fitness if objective is None else objective(fitness, sizes, now))
        key = jax.random.fold_in(generation_keys(state)[0], UPDATE)
        if samples is not None:
            drawn = jax.random.uniform(jax.random.fold_in(key, 1), (total,), jnp.float32)
            architectures, goal = take((architectures, goal), jax.lax.top_k(drawn, samples)[1])
        learned = controller.update(state.search, key, architectures, goal)
        learns = ((now + 1) % every == 0) & ~failed(fitness).all()
        learned = jax.tree.map(lambda new, old: jnp.where(learns, new, old), learned, state.search)

        sound = ~failed(fitness[num_members:])
        info = info._replace(
            center_fitness=jnp.mean(fitness[num_members:], where=sound) if num_center else None,
            distinct_architectures=_distinct(hashes),
            edges=sizes.astype(jnp.float32).mean(),
        )
        return told._replace(search=learned), info

    return Algorithm(init, population, member, ask, tell)


def proposal_key(state: State, every: int = 1) -> Key[Array, ""]:
    """Gives the key of the proposals of the next generation; see ``es_enas`` for ``every``."""
    first = state._replace(generation=state.generation - state.generation % every)
    return jax.random.fold_in(generation_keys(first)[0], PROPOSALS)


def target_edges(target: int, *, omega: float = -1.0) -> Objective:
    """Makes the objective max(0, z + 10) (e / target)^ω where a member has more edges e.

    z is its fitness, standardized over the members: of a negative f the product f (e / target)^ω
    of the paper would reward edges. So at twice the target a member has to be 10 deviations better.

    Args:
        target: entries of the kernels that a policy may have at no cost.
        omega: ω, how much those above cost.

    Reference: Song et al. 2021 (arXiv 2101.07415), section 5.6, after MnasNet (arXiv 1807.11626);
    the published code has f + 1000.
    """

    def objective(
        fitness: Float[Array, " p"], edges: Int[Array, " p"], generation: Int[Array, ""]
    ) -> Float[Array, " p"]:
        excess = jnp.maximum(edges / target, 1.0)
        worth = jnp.maximum(standardize(fitness) + SHIFT, 0.0)
        return jnp.where(failed(fitness), fitness, worth * excess**omega)

    return objective


def fewer_edges(weight: optax.Schedule) -> Objective:
    """Makes the objective (1 - w) f - w e, fitness and edges standardized over the members.

    Args:
        weight: generation -> w in [0, 1], what smallness is worth.

    Reference: Song et al. 2021 (arXiv 2101.07415), appendix C.5.4, with β = 1 - w.
    """

    def objective(
        fitness: Float[Array, " p"], edges: Int[Array, " p"], generation: Int[Array, ""]
    ) -> Float[Array, " p"]:
        w = weight(generation)
        both = (1 - w) * standardize(fitness) + w * standardize(-edges)
        return jnp.where(failed(fitness), fitness, both)

    return objective


def _distinct(hashes: UInt32[Array, " p"]) -> Int[Array, ""]:
    ordered = jnp.sort(hashes)
    return 1 + (ordered[1:] != ordered[:-1]).sum(dtype=jnp.int32)


def _hash(architecture: Int[Array, " l"]) -> UInt32[Array, ""]:
    places = jnp.arange(architecture.size, dtype=jnp.uint32) + 1
    return _mixed(architecture.astype(jnp.uint32) ^ _mixed(places)).sum(dtype=jnp.uint32)


def _mixed(x: UInt32[Array, " l"]) -> UInt32[Array, " l"]:
    """Bits of whole numbers, shuffled one to one (Wellons 2018, ``lowbias32``)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
