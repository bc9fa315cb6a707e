"""The algorithm, assembled from its parts: NES, and with hard thresholding in its optimizer NESHT.

params --noise--> population --[Evaluate]--> fitness --shaping--> utility --gradient--> g
   ^                                                                                    |
   +------------------------- sparsity <-- optimizer <----------------------------------+
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.es import gradient, noise
from nesht_jax.es.checks import (
    SigmaPer,
    check_numbers,
    check_optimizer,
    check_sigma_per,
    checked_fitness,
    checked_params,
)
from nesht_jax.es.shaping import centered_rank, failed
from nesht_jax.types import (
    Evaluate,
    LowRank,
    Moments,
    Params,
    Population,
    center_of,
    is_low_rank,
    mask_of,
    sparsity_of,
    support_of,
)


class State(NamedTuple):
    """What the next generation needs; a checkpoint is this, whole.

    Attributes:
        key: seed of the run, never consumed: every generation folds its number in.
        generation: updates done.
        params: θ; ``center_of`` it, what of it lives, is the mean of the search distribution.
        optimizer: state of the optax chain; the mask of a sparse policy is in it.
        moments: running moments of observations; None where the policy does not use them.
        search: state of the controller of an architecture search; None without one.
    """

    key: Key[Array, ""]
    generation: Int[Array, ""]
    params: Params
    optimizer: Any
    moments: Moments | None
    search: Any = None


class Info(NamedTuple):
    """What a logger may want to know of one generation.

    Attributes:
        fitness_mean: mean fitness of the members that did not fail.
        fitness_std: standard deviation of their fitness.
        fitness_max: fitness of the best member.
        failed: number of members without a finite fitness.
        skipped: whether the update was left out, because the gradient, the new params or the new
            optimizer state was not finite.
        dropped_moments: whether the moments of the generation were left out, as they overflowed.
        gradient_norm: ‖g‖₂, in units of utility per unit of params.
        gradient_snr: |mean| over deviation, in the mean over the weights that were perturbed, of
            w_j ε_j, what n single directions say of a weight; chance alone makes it 0.8/√n.
        params_norm: ‖θ‖₂ after the update.
        sparsity: fraction of weights that do not live after the update, by the optimizer's mask.
        sigma: σ of this generation.
        steps: useful environment steps of all members; 0 where ``tell`` was called directly.
        simulated_steps: all environment steps, idle ones included; likewise.
        center_fitness: mean fitness of the members that play the center, each with an architecture
            of its own; None where no architecture is searched, as the next two, or none plays it.
        distinct_architectures: number of different architectures among the members.
        edges: entries of the kernels that live, in the mean over the members.
    """

    fitness_mean: Float[Array, ""]
    fitness_std: Float[Array, ""]
    fitness_max: Float[Array, ""]
    failed: Int[Array, ""]
    skipped: Bool[Array, ""]
    dropped_moments: Bool[Array, ""]
    gradient_norm: Float[Array, ""]
    gradient_snr: Float[Array, ""]
    params_norm: Float[Array, ""]
    sparsity: Float[Array, ""]
    sigma: Float[Array, ""]
    steps: int | Int[Array, ""] = 0
    simulated_steps: int | Int[Array, ""] = 0
    center_fitness: Float[Array, ""] | None = None
    distinct_architectures: Int[Array, ""] | None = None
    edges: Float[Array, ""] | None = None


class Algorithm(NamedTuple):
    """The pure functions of one algorithm; see ``nesht``.

    Attributes:
        init: (key, params, *, moments=None) -> state before the first generation.
        population: state -> population of the next generation.
        member: (state, i) -> params of member i, in plain arrays.
        ask: state -> params of all members, leading axis m; for small policies.
        tell: (state, fitness [m], *, observed=None) -> (state, info): one update.
    """

    init: Callable[..., State]
    population: Callable[[State], Population]
    member: Callable[[State, Any], Params]
    ask: Callable[[State], Params]
    tell: Callable[..., tuple[State, Info]]


def nesht(
    *,
    num_members: int,
    sigma: float | Float[Array, ""] | optax.Schedule,
    optimizer: optax.GradientTransformation,
    mirrored: bool = True,
    rank: int | None = None,
    sigma_per: SigmaPer = "weight",
    shaping: Callable[[Float[Array, " m"]], Float[Array, " m"]] = centered_rank,
    sum_noise: gradient.SumNoise | None = None,
) -> Algorithm:
    """Natural Evolution Strategies; with ``hard_thresholding`` last in the optimizer, NESHT.

    max_θ E_ε F(θ + σε), ε ~ N(0, I_d):  θ ← H_k(θ + optimizer(g)),  g = (1/(mσ)) Σ_i u_i ε_i.

    Args:
        num_members: number m of candidates in a generation.
        sigma: σ > 0, standard deviation of the perturbations in units of params, or a schedule
            from the generation, counted from 0, to σ. In half precision a perturbation below half
            a unit in the last place of a weight is rounded away: keep σ well above it.
        optimizer: any optax chain, used as optax uses it, to descend -F; ``value=`` and ``key=``,
            the generation's own, are given. If its sparsity has a support, only the weights in it
            are perturbed: a generation is plain NES on these, and the others have gradient 0.
        mirrored: whether members 2j and 2j + 1 are θ + σ ε_j and θ - σ ε_j.
        rank: rank of the perturbations of wide layers, see ``noise.perturbation``; None: full.
        sigma_per: what σ is the standard deviation of: "weight", every weight's perturbation; or
            "output", what those of the f perturbed weights into one output add up to, each of which
            has σ/√f then, as initializations by fan-in do. g stays (1/(mσ)) Σ_i u_i ε_i, so that
            fewer perturbed weights move further from θ, and step as before.
        shaping: fitness [m] -> utility [m].
        sum_noise: what sums the noise of all directions, as ``shares.shared_noise`` does over many
            devices; None: this one.

    Raises:
        ValueError: if m is not positive, or odd while mirrored; if σ is not positive and finite;
            if the rank is not positive, or given where σ is per output; from ``init``, if a rank is
            given and the optimizer's support leaves weights unperturbed.
        TypeError: if ``optimizer`` is no optax transformation.

    Reference: Gao et al. 2024 (arXiv 2405.01615), algorithm 1; Salimans et al. 2017
    (arXiv 1703.03864), section 2.
    """
    check_numbers(num_members=num_members, mirrored=mirrored, sigma=sigma, rank=rank)
    check_sigma_per(sigma_per, rank)
    check_optimizer(optimizer)
    sigma_of = sigma if callable(sigma) else lambda generation: sigma
    pair_up = gradient.mirrored if mirrored else gradient.one_sided
    descend = optax.with_extra_args_support(optimizer).update

    def epsilon(state: State, direction: int | Int[Array, ""]) -> Params:
        key, _ = generation_keys(state)
        return noise.perturbation(key, direction, state.params, rank=rank)

    def init(key: Key[Array, ""], params: Params, *, moments: Moments | None = None) -> State:
        """The state before the first generation; ``key`` seeds the whole run."""
        params = checked_params(params)
        optimizer_state = optimizer.init(params)
        params = center_of(params, optimizer_state)
        if rank is not None and support_of(optimizer_state, params) is not None:
            raise ValueError(f"rank must be None where not all weights are perturbed, got {rank}")
        return State(key, jnp.zeros((), jnp.int32), params, optimizer_state, moments)

    def spread(state: State) -> Params:
        """What an ε of variance 1 is multiplied by, the same for all members of a generation."""
        fan_ins = noise.fan_ins(state.params, support_of(state.optimizer, state.params))
        return jax.tree.map(lambda f: 1 / jnp.sqrt(f), fan_ins)

    def draw(state: State, spreads: Params | None, i: int | Int[Array, ""]) -> Params:
        """θ + σ ε_i, with σ spread if it is per output; of a low-rank leaf σ ε_i alone."""
        direction, sign = (i // 2, 1 - 2 * (i % 2)) if mirrored else (i, 1)
        scale = jnp.asarray(sign, jnp.float32) * jnp.asarray(
            sigma_of(state.generation), jnp.float32
        )

        def perturbed(p: Array, e: Array | LowRank) -> Array | LowRank:
            s = scale.astype(p.dtype)
            return LowRank(None, s * e.a, e.b) if isinstance(e, LowRank) else p + s * e

        center, noises = center_of(state.params, state.optimizer), epsilon(state, direction)
        if spreads is not None:
            noises = jax.tree.map(lambda e, s: (e * s).astype(e.dtype), noises, spreads)
        drawn = jax.tree.map(perturbed, center, noises)
        return _on_support(state, drawn, center)

    def population(state: State) -> Population:
        """θ + σ ε_i of every i, low-rank perturbations left unmultiplied."""
        spreads = spread(state) if sigma_per == "output" else None
        return Population(
            jax.tree_util.Partial(draw, state, spreads),
            jax.tree_util.Partial(_with_center, center_of(state.params, state.optimizer)),
        )

    def member(state: State, i: int | Int[Array, ""]) -> Params:
        """θ + σ ε_i: one member, regenerated, in plain arrays."""
        return jax.tree.map(_multiplied, population(state)(i), is_leaf=is_low_rank)

    def ask(state: State) -> Params:
        """All members, leading axis m."""
        return jax.vmap(member, (None, 0))(state, jnp.arange(num_members, dtype=jnp.int32))

    def tell(
        state: State, fitness: Float[Array, " m"], *, observed: Moments | None = None
    ) -> tuple[State, Info]:
        """One update from the fitness of all members, to be maximized.

        A member whose fitness is not finite has failed and ranks worst. An update that would bring
        what is not finite into params or optimizer state is skipped. Moments that are not finite
        are left out. ``Info`` counts all three.
        """
        fitness = checked_fitness(fitness, num_members)
        sigma_now = jnp.asarray(sigma_of(state.generation), jnp.float32)
        mean, std = _mean_and_std(fitness)

        weights = pair_up(shaping(fitness))
        g = gradient.nes_gradient(
            jax.tree_util.Partial(epsilon, state), weights, sigma_now, sum_noise=sum_noise
        )
        g = _on_support(state, g, jax.tree.map(jnp.zeros_like, g))
        descent = jax.tree.map(jnp.negative, g)
        told = {"value": -mean, "key": jax.random.fold_in(generation_keys(state)[0], 1)}
        updates, optimizer_state = descend(descent, state.optimizer, state.params, **told)
        params = optax.apply_updates(state.params, updates)

        before, after = (state.params, state.optimizer), (params, optimizer_state)
        skipped = ~(_all_finite(g) & _stays_finite(before, after))
        params, optimizer_state = jax.tree.map(partial(jnp.where, skipped), before, after)
        moments, dropped = _merged(state.moments, observed)
        info = Info(
            fitness_mean=mean,
            fitness_std=std,
            fitness_max=jnp.max(fitness, where=~failed(fitness), initial=-jnp.inf),
            failed=failed(fitness).sum(dtype=jnp.int32),
            skipped=skipped,
            dropped_moments=dropped,
            gradient_norm=_norm(g),
            gradient_snr=gradient.signal_to_noise(
                g, weights, sigma_now, support_of(state.optimizer, state.params)
            ),
            params_norm=_norm(params),
            sparsity=sparsity_of(mask_of(optimizer_state, params)),
            sigma=sigma_now,
        )
        state = state._replace(
            generation=state.generation + 1,
            params=params,
            optimizer=optimizer_state,
            moments=moments,
        )
        return state, info

    return Algorithm(init, population, member, ask, tell)


def generation_keys(state: State) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Gives the generation's two keys: for its noise, and for its episodes."""
    noise_key, episode_key = jax.random.split(jax.random.fold_in(state.key, state.generation))
    return noise_key, episode_key


def make_generation(
    algorithm: Algorithm,
    evaluate: Evaluate,
    *,
    horizon: Callable[[Int[Array, ""]], Int[Array, ""]] | None = None,
) -> Callable[[State], tuple[State, Info]]:
    """Makes one generation, ``state -> (state, info)``.

    Pure if ``evaluate`` is: then a training run is ``jax.lax.scan`` over it.

    Args:
        algorithm: what improves the params.
        evaluate: what plays the population.
        horizon: schedule from the generation, counted from 0, to the steps after which its episodes
            are cut; None: as the task says.
    """

    def generation(state: State) -> tuple[State, Info]:
        _, key = generation_keys(state)
        cut = {} if horizon is None else {"horizon": horizon(state.generation)}
        evaluation = evaluate(key, algorithm.population(state), state.moments, **cut)
        state, info = algorithm.tell(state, evaluation.fitness, observed=evaluation.observed)
        steps, simulated = evaluation.steps.sum(), evaluation.simulated_steps
        return state, info._replace(steps=steps, simulated_steps=simulated)

    return generation


def _on_support(state: State, moved: Params, still: Params) -> Params:
    """What is moved where the search may move, and what is still elsewhere."""
    support = support_of(state.optimizer, state.params)
    if support is None:
        return moved
    return jax.tree.map(
        lambda m, s, is_in: jnp.where(is_in, _beside(is_in, m), _beside(is_in, s)),
        moved,
        still,
        support,
    )


def _beside(leaf: Array, x: Array) -> Array:
    """x on the devices that share the leaf, if they share it by its type."""
    there = jax.typeof(leaf).sharding
    is_shared = any(axis is not None for axis in there.spec)
    return jax.sharding.reshard(x, there) if is_shared else x


def _with_center(center: Params, drawn: Params) -> Params:
    """A member from what was drawn for it: low-rank leaves stand on the center."""
    return jax.tree.map(
        lambda p, own: LowRank(p, own.a, own.b) if isinstance(own, LowRank) else own, center, drawn
    )


def _multiplied(leaf: Array | LowRank) -> Array:
    return leaf.matrix + leaf.a @ leaf.b.T if isinstance(leaf, LowRank) else leaf


def _norm(tree: Params) -> Float[Array, ""]:
    """‖tree‖₂, summed in float32 at least: squares of half precision leave its range."""
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
    return optax.tree.norm(wide)


def _mean_and_std(fitness: Float[Array, " m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean and standard deviation over the members that did not fail."""
    sound = ~failed(fitness)
    # squares of 1e30 are infinite in float32, and the reciprocal of 3e38 is zero
    unit = jnp.max(jnp.abs(fitness), where=sound, initial=0) / 16
    scale = jnp.where(unit > 0, unit, 1)
    mean = scale * jnp.mean(fitness / scale, where=sound)
    return mean, scale * jnp.std(fitness / scale, where=sound)


def _merged(
    moments: Moments | None, observed: Moments | None
) -> tuple[Moments | None, Bool[Array, ""]]:
    """The running moments with those of the generation, and whether these had to be left out."""
    if moments is None or observed is None:
        return moments, jnp.asarray(False)
    return moments.merge_finite(observed)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], bool).all()


def _stays_finite(before: Any, after: Any) -> Bool[Array, ""]:
    """Whether all that was finite still is; some states, as of a plateau's best value, begin at
    infinity."""
    numbers_of = (x for x in jax.tree.leaves(jax.tree.map(_became_infinite, before, after)))
    return ~jnp.array([*numbers_of, False], bool).any()


def _became_infinite(before: Array, after: Array) -> Bool[Array, ""]:
    return (jnp.isfinite(before) & ~jnp.isfinite(after)).any()
