"""Episodes of a whole population in one compiled loop, for rooms written in JAX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax import normalize
from nesht_jax.contract import Evaluate, Evaluation, Member, Params
from nesht_jax.envs.noisy import observe
from nesht_jax.envs.task import TaskSpec
from nesht_jax.policy import Policy


class Transition(NamedTuple):
    """What a step brings: the next state of the simulator and what the task says of it."""

    state: Any
    observation: Float[Array, " o"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


class Environment(NamedTuple):
    """One environment, unbatched; ``vmap`` is outside.

    Attributes:
        reset: key -> (state, observation).
        step: (state, action) -> transition. Never resets; the horizon is the rollout's business.
        spec: sizes, action bounds and the task's own horizon.
    """

    reset: Callable[[Key[Array, ""]], tuple[Any, Float[Array, " o"]]]
    step: Callable[[Any, Float[Array, " a"]], Transition]
    spec: TaskSpec


class Episode(NamedTuple):
    """A running episode; every field is frozen once it has ended."""

    state: Any
    observation: Float[Array, " o"]
    steps: Int[Array, ""]
    fitness: Float[Array, ""]
    ended: Bool[Array, ""]
    observed: normalize.Moments | None


def make_act(
    policy: Policy, spec: TaskSpec, *, noise: int, action_noise: float
) -> Callable[..., tuple[Float[Array, " features"], Float[Array, " a"]]]:
    """What one member sees and does: ``(params, moments, observation, key, step)`` ->
    (observation with its noise features, action). ``key`` is the episode's own, the same at every
    step of it."""

    def act(
        params: Params,
        moments: normalize.Moments | None,
        observation: Float[Array, " o"],
        key: Key[Array, ""],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, " features"], Float[Array, " a"]]:
        feature_key, action_key = jax.random.split(key)
        seen = observe(observation, noise, feature_key, step)
        action = policy.apply(params, moments, seen)
        if action_noise:
            jitter = jax.random.normal(jax.random.fold_in(action_key, step), action.shape)
            action = jnp.clip(action + action_noise * jitter, spec.action_low, spec.action_high)
        return seen, action

    return act


def episode_keys(
    key: Key[Array, ""],
    member: Int[Array, ""],
    rollout: Int[Array, ""],
    *,
    common_random_numbers: bool,
) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Keys of one episode of a generation: for its reset, and for all that is drawn on its way."""
    reset_root, stream_root = jax.random.split(key)
    seed = member // 2 if common_random_numbers else member
    return (
        jax.random.fold_in(jax.random.fold_in(reset_root, seed), rollout),
        jax.random.fold_in(jax.random.fold_in(stream_root, member), rollout),
    )


def make_episode(
    environment: Environment, policy: Policy, *, noise: int, horizon: int, action_noise: float
) -> Callable[..., Episode]:
    """One episode of one member: ``(reset_key, stream_key, params, moments) -> Episode``.

    Under ``vmap`` the loop runs until the last episode ends, and an ended one keeps its values:
    the masked scan, the obvious twin of any cleverer schedule.
    """
    act = make_act(policy, environment.spec, noise=noise, action_noise=action_noise)
    # jitted, so that the loops around them do not trace a simulator again and again
    reset, simulate = jax.jit(environment.reset), jax.jit(environment.step)

    def episode(
        reset_key: Key[Array, ""],
        stream_key: Key[Array, ""],
        params: Params,
        moments: normalize.Moments | None,
    ) -> Episode:
        def step(now: Episode) -> Episode:
            seen, action = act(params, moments, now.observation, stream_key, now.steps)
            after = simulate(now.state, action)
            observed = now.observed
            return Episode(
                state=after.state,
                observation=after.observation,
                steps=now.steps + 1,
                fitness=now.fitness + after.reward,
                ended=after.terminated | (now.steps + 1 >= horizon),
                observed=None if observed is None else normalize.add(observed, seen),
            )

        state, observation = reset(reset_key)
        first = Episode(
            state=state,
            observation=observation,
            steps=jnp.int32(0),
            fitness=jnp.float32(0),
            ended=jnp.asarray(False),
            observed=normalize.empty(observation.size * (1 + noise)) if policy.observes else None,
        )
        # a reset and a step differ in weak types: without this the loop would not type-check
        first = _typed_as(jax.eval_shape(step, first), first)
        return jax.lax.while_loop(lambda now: ~now.ended, step, first)

    return episode


def make_pure_evaluate(
    environment: Environment,
    policy: Policy,
    *,
    num_members: int,
    rollouts: int = 1,
    noise: int = 0,
    horizon: int | None = None,
    action_noise: float = 0.0,
    common_random_numbers: bool = False,
) -> Evaluate:
    """The population's rollouts, masked, in one loop. See ``make_evaluate`` for the arguments."""
    length = horizon or environment.spec.horizon
    episode = make_episode(
        environment, policy, noise=noise, horizon=length, action_noise=action_noise
    )

    def evaluate(
        key: Key[Array, ""], member: Member, moments: normalize.Moments | None
    ) -> Evaluation:
        def rollout(i: Int[Array, ""], r: Int[Array, ""], params: Params) -> Episode:
            keys = episode_keys(key, i, r, common_random_numbers=common_random_numbers)
            return episode(*keys, params, moments)

        def rollouts_of(i: Int[Array, ""]) -> Episode:
            return jax.vmap(rollout, (None, 0, None))(i, jnp.arange(rollouts), member(i))

        played = jax.vmap(rollouts_of)(jnp.arange(num_members))
        observed = None
        if played.observed is not None:
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), played.observed)
            observed = normalize.merge_all(flat)
        return Evaluation(
            fitness=played.fitness.mean(1),
            steps=played.steps.sum(1),
            simulated=played.steps.max() * num_members * rollouts,
            observed=observed,
        )

    return evaluate


def _typed_as(like: Any, tree: Any) -> Any:
    """``tree`` with the dtypes of ``like`` and no weak types, so that a loop compiles once."""
    return jax.tree.map(lambda x, t: jax.lax.convert_element_type(x, t.dtype), tree, like)
