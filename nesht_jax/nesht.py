"""NESHT: the parts assembled. Plain NES is the same, with no thresholding in the optimizer."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax import gradient, noise, normalize, shaping
from nesht_jax.contract import Evaluate, LowRank, Members, Params, is_low_rank


class State(NamedTuple):
    """What the next generation needs; a checkpoint is this, whole.

    Attributes:
        key: the seed of the run, never consumed: every generation folds its number in.
        generation: updates done.
        params: θ, the centre.
        optimizer: state of the optax chain.
        moments: running observation moments; ``None`` where no policy reads them.
    """

    key: Key[Array, ""]
    generation: Int[Array, ""]
    params: Params
    optimizer: Any
    moments: normalize.Moments | None


class Info(NamedTuple):
    """What a logger may want to know of one update.

    Attributes:
        fitness_mean: over the members that did not fail; so the next two.
        fitness_std: their standard deviation.
        fitness_max: the best of them.
        failed: members without a finite fitness.
        skipped: whether the update was skipped because its gradient was not finite.
        gradient_norm: ‖g‖₂.
        params_norm: ‖θ‖₂ after the update.
        sparsity: fraction of exact zeros in θ after the update.
        sigma: σ of this generation.
    """

    fitness_mean: Float[Array, ""]
    fitness_std: Float[Array, ""]
    fitness_max: Float[Array, ""]
    failed: Int[Array, ""]
    skipped: Bool[Array, ""]
    gradient_norm: Float[Array, ""]
    params_norm: Float[Array, ""]
    sparsity: Float[Array, ""]
    sigma: Float[Array, ""]


class Algorithm(NamedTuple):
    """Pure functions: ``init(key, params)``, ``members(state)``, ``member(state, i)``,
    ``ask(state)``, ``tell(state, fitness)``. See ``nesht``."""

    init: Callable[..., State]
    members: Callable[[State], Members]
    member: Callable[[State, Any], Params]
    ask: Callable[[State], Params]
    tell: Callable[..., tuple[State, Info]]


def nesht(
    *,
    num_members: int,
    sigma: float | optax.Schedule,
    optimizer: optax.GradientTransformation,
    mirrored: bool = True,
    rank: int | None = None,
    shaping: Callable[[Float[Array, " m"]], Float[Array, " m"]] = shaping.centered_rank,
) -> Algorithm:
    """Natural Evolution Strategies; with ``hard_thresholding`` last in the optimizer, NESHT.

    max_θ E_ε F(θ + σε), ε ~ N(0, I_d):  θ ← H_k(θ + optimizer(g)),  g = (1/(mσ)) Σ_i u_i ε_i.

    Args:
        num_members: m, candidates evaluated in a generation.
        sigma: σ, or a schedule from the generation, from 0, to σ.
        optimizer: any optax chain, used as optax uses it, to descend -F.
        mirrored: members 2j and 2j + 1 are θ + σ ε_j and θ - σ ε_j.
        rank: of the perturbations of wide layers, see ``noise.perturbation``; None for full rank.
        shaping: fitness [m] -> utility [m].

    Raises:
        ValueError: if m is not positive, or odd while mirrored; if the rank is not positive.

    Reference: Gao et al. 2024 (arXiv 2405.01615); Salimans et al. 2017 (arXiv 1703.03864).
    """
    if num_members < 1 or (mirrored and num_members % 2):
        raise ValueError(
            f"num_members must be positive, and even if mirrored, got {num_members}; "
            "a mirrored direction makes two members"
        )
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, or None for full rank, got {rank}")
    sigma_of = sigma if callable(sigma) else lambda generation: sigma
    pair_up = gradient.mirrored if mirrored else gradient.one_sided

    def perturbation(state: State, direction: int | Int[Array, ""]) -> Params:
        key, _ = generation_keys(state)
        return noise.perturbation(key, direction, state.params, rank=rank)

    def init(
        key: Key[Array, ""], params: Params, *, moments: normalize.Moments | None = None
    ) -> State:
        """The state before the first generation; ``key`` seeds the whole run."""
        return State(key, jnp.zeros((), jnp.int32), params, optimizer.init(params), moments)

    def own(state: State, i: int | Int[Array, ""]) -> Params:
        direction, sign = (i // 2, 1 - 2 * (i % 2)) if mirrored else (i, 1)
        scale = sign * sigma_of(state.generation)
        epsilon = perturbation(state, direction)

        def perturbed(p: Array, e: Array | LowRank) -> Array | LowRank:
            s = jnp.asarray(scale, p.dtype)
            return LowRank(None, s * e.a, e.b) if isinstance(e, LowRank) else p + s * e

        return jax.tree.map(perturbed, state.params, epsilon)

    def members(state: State) -> Members:
        """θ + σ ε_i of every i, low-rank perturbations left unmultiplied."""
        own_part = jax.tree_util.Partial(own, state)
        return Members(own_part, jax.tree_util.Partial(_with_centre, state.params))

    def member(state: State, i: int | Int[Array, ""]) -> Params:
        """θ + σ ε_i: one member, regenerated, in plain arrays."""
        return jax.tree.map(_multiplied, members(state)(i), is_leaf=is_low_rank)

    def ask(state: State) -> Params:
        """All members, leading axis m."""
        return jax.vmap(member, (None, 0))(state, jnp.arange(num_members))

    def tell(
        state: State, fitness: Float[Array, " m"], *, observed: normalize.Moments | None = None
    ) -> tuple[State, Info]:
        """One update from the fitness of all members, to be maximised.

        A failed member ranks worst and an update whose gradient is not finite is skipped, both
        counted in ``Info``; moments that are not finite are left out.
        """
        sigma_now = jnp.asarray(sigma_of(state.generation), jnp.float32)
        weights = pair_up(shaping(fitness))
        g = gradient.nes_gradient(jax.tree_util.Partial(perturbation, state), weights, sigma_now)
        descent = jax.tree.map(jnp.negative, g)
        updates, optimizer_state = optimizer.update(descent, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        skipped = ~_all_finite(g)
        params, optimizer_state = jax.tree.map(
            partial(jnp.where, skipped),
            (state.params, state.optimizer),
            (params, optimizer_state),
        )
        moments = state.moments
        if moments is not None and observed is not None:
            merged = normalize.merge(moments, observed)
            sound = _all_finite(observed)
            moments = jax.tree.map(partial(jnp.where, sound), merged, moments)
        after = State(state.key, state.generation + 1, params, optimizer_state, moments)
        return after, _info(fitness, g, params, skipped, sigma_now)

    return Algorithm(init, members, member, ask, tell)


def generation_keys(state: State) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The generation's keys: one for its noise, one for its room."""
    noise_key, room_key = jax.random.split(jax.random.fold_in(state.key, state.generation))
    return noise_key, room_key


def make_generation(
    algorithm: Algorithm, evaluate: Evaluate
) -> Callable[[State], tuple[State, tuple[Info, Int[Array, ""], Int[Array, ""]]]]:
    """One generation, ``state -> (state, (info, useful steps, simulated steps))``.

    Pure if ``evaluate`` is: then a training run is ``jax.lax.scan`` over it.
    """

    def generation(state: State):
        _, key = generation_keys(state)
        evaluation = evaluate(key, algorithm.members(state), state.moments)
        state, info = algorithm.tell(state, evaluation.fitness, observed=evaluation.observed)
        return state, (info, evaluation.steps.sum(), evaluation.simulated)

    return generation


def _with_centre(centre: Params, own: Params) -> Params:
    """A member from what it has of its own."""
    return jax.tree.map(
        lambda p, o: LowRank(p, o.a, o.b) if isinstance(o, LowRank) else o, centre, own
    )


def _multiplied(leaf: Array | LowRank) -> Array:
    return leaf.matrix + leaf.a @ leaf.b.T if isinstance(leaf, LowRank) else leaf


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def realised_sparsity(params: Params) -> Float[Array, ""]:
    """The fraction of exact zeros."""
    leaves = jax.tree.leaves(params)
    zeros = sum((jnp.sum(leaf == 0) for leaf in leaves), jnp.int32(0))
    return zeros / sum(leaf.size for leaf in leaves)


def _info(
    fitness: Float[Array, " m"],
    g: Params,
    params: Params,
    skipped: Bool[Array, ""],
    sigma: Float[Array, ""],
) -> Info:
    failed = shaping.failed(fitness)
    return Info(
        fitness_mean=jnp.mean(fitness, where=~failed),
        fitness_std=jnp.std(fitness, where=~failed),
        fitness_max=jnp.max(fitness, where=~failed, initial=-jnp.inf),
        failed=failed.sum(),
        skipped=skipped,
        gradient_norm=optax.tree.norm(g),
        params_norm=optax.tree.norm(params),
        sparsity=realised_sparsity(params),
        sigma=sigma,
    )
