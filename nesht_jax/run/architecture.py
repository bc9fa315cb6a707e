"""The architecture search of a config, around the algorithm that trains the weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from nesht_jax.es.nes import Algorithm, State
from nesht_jax.policy.activation import ACTIVATIONS
from nesht_jax.policy.structure import Structure, make_structure
from nesht_jax.run.agent import RunState
from nesht_jax.run.config import Config
from nesht_jax.run.sections import SearchConfig
from nesht_jax.search.controller import Controller, fixed, random_search
from nesht_jax.search.es_enas import es_enas, fewer_edges, proposal_key, target_edges
from nesht_jax.search.evolution import regularized_evolution
from nesht_jax.search.pointer_network import pointer_network
from nesht_jax.search.policy_gradient import policy_gradient
from nesht_jax.search.space import Space, choices, product, subset
from nesht_jax.types import Policy, Task, center_of


class Search(NamedTuple):
    """What makes a policy's params of fewer weights, and of an architecture.

    Attributes:
        structure: how params are made.
        controller: what proposes architectures.
    """

    structure: Structure
    controller: Controller


def build_search(config: Config, task: Task, policy: Policy) -> Search | None:
    """Makes the search of a config; None where the policy's params are the weights.

    Raises:
        ValueError: in one sentence, if it does not go with the policy.
    """
    if not config.structured:
        return None
    chosen = config.search
    colors = chosen.colors or max(task.num_features, task.num_actions)
    kernel = "shared" if "colors" in chosen.space else config.policy.kernel
    structure = make_structure(policy.layers, kernel, colors=colors)
    if not chosen.space:
        return Search(structure, fixed({}))
    spaces = {
        "colors": lambda: choices(structure.num_edges, colors),
        "edges": lambda: _edges(chosen, structure),
        "mask": lambda: choices(structure.num_edges, 2),
        "activations": lambda: choices(structure.num_units, len(ACTIVATIONS)),
    }
    space = product({name: spaces[name]() for name in chosen.space})
    return Search(structure, _controller(config, space))


def _edges(chosen: SearchConfig, structure: Structure) -> Space:
    if chosen.edges > structure.num_edges:
        raise ValueError(
            f"search.edges must be at most {structure.num_edges}, the entries of the policy's "
            f"kernels, got {chosen.edges}"
        )
    pointer = chosen.controller == "pointer_network"
    return (pointer_network if pointer else subset)(structure.num_edges, chosen.edges)


def _controller(config: Config, space: Space) -> Controller:
    chosen, played = config.search, config.num_played
    told = chosen.samples or played
    if told > played:
        raise ValueError(f"search.samples must be at most {played}, the members, got {told}")
    if chosen.controller == "random":
        return random_search(space)
    if chosen.controller in ("policy_gradient", "pointer_network"):
        if told < 2:
            raise ValueError(
                f"search.controller {chosen.controller} compares members: search.samples must be "
                f"at least 2, got {told}"
            )
        return policy_gradient(space, learning_rate=chosen.learning_rate)
    if played < 4:
        raise ValueError(
            f"search.controller evolution needs tournaments of two, so 4 members, got {played}"
        )
    return regularized_evolution(space, population_size=played)


def searching(config: Config, algorithm: Algorithm, search: Search) -> Algorithm:
    """Makes the algorithm of a config train a search too."""
    chosen, policy = config.search, config.policy
    weights_objective = None
    if policy.gate_cost:
        weights_objective = fewer_edges(
            optax.linear_schedule(0.0, policy.gate_cost, policy.gate_cost_generations)
        )
    return es_enas(
        algorithm,
        search.controller,
        search.structure,
        num_members=config.algorithm.num_members,
        num_center=config.num_played - config.algorithm.num_members,
        every=chosen.every,
        samples=chosen.samples if chosen.space else None,
        objective=None if chosen.target is None else target_edges(chosen.target),
        weights_objective=weights_objective,
    )


def edge_frequency(
    config: Config, search: Search | None, state: RunState
) -> Float[Array, " e"] | None:
    """Computes in which share of the next generation's proposals each entry of the kernels lives.

    None where nothing is searched.
    """
    if search is None or not config.search.space or not isinstance(state, State):
        return None
    key = proposal_key(state, config.search.every)

    def edges(i: Int[Array, ""]) -> Bool[Array, " e"]:
        architecture = search.controller.propose(state.search, key, i)
        return search.structure.edges(architecture, center_of(state.params, state.optimizer))

    return jax.vmap(edges)(jnp.arange(config.num_played, dtype=jnp.int32)).mean(0)
