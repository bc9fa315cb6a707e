"""Episodes of a whole population in one compiled loop, for rooms written in JAX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from nesht_jax import normalize
from nesht_jax.contract import Evaluate, Evaluation, Members, Params
from nesht_jax.envs import noisy
from nesht_jax.envs.queue import Slot, default_slots, play, seating
from nesht_jax.envs.task import TaskSpec, episode_length
from nesht_jax.noise import normal
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


def strong(tree: Any) -> Any:
    """``tree`` without weak types, in which a simulator's reset and step may differ: a loop around
    them would compile twice."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def make_act(
    policy: Policy, spec: TaskSpec, *, noise: int, action_noise: float
) -> Callable[..., tuple[Float[Array, " features"], Float[Array, " a"]]]:
    """What one member sees and does: ``(params, moments, observation, words, step)`` ->
    (observation with its noise features, action). ``words`` are the episode's own, the same at
    every step of it: two for features, two for noise on actions."""

    def act(
        params: Params,
        moments: normalize.Moments | None,
        observation: Float[Array, " o"],
        words: UInt32[Array, "2 2"],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, " features"], Float[Array, " a"]]:
        seen = noisy.observe(observation, noise, words[0], step)
        action = policy.apply(params, moments, seen)
        rules = {"action_noise": action_noise, "samples": policy.samples}
        jitter = normal(words[1], step, (noisy.jitters(spec, **rules),))
        return seen, noisy.act(action, jitter, spec, **rules)

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
    slots: int | None = None,
) -> Evaluate:
    """The population's rollouts in one loop: a slot whose episode ends takes the next one.

    The return of an episode does not depend on the slot that plays it, nor on how many there are,
    but for the order in which a batch of another size is summed. See ``make_evaluate`` for the
    arguments.
    """
    length = episode_length(environment.spec, horizon)
    usual = default_slots(num_members * rollouts, terminates=environment.spec.terminates)
    act = make_act(policy, environment.spec, noise=noise, action_noise=action_noise)
    # jitted, so that the loops around them do not trace a simulator again and again
    reset, simulate = jax.jit(environment.reset), jax.jit(environment.step)

    def begin(key: Key[Array, ""], episode: Int[Array, ""]) -> Slot:
        reset_key, stream_key = episode_keys(
            key,
            episode // rollouts,
            episode % rollouts,
            common_random_numbers=common_random_numbers,
        )
        state, observation = reset(reset_key)
        words = jax.random.bits(stream_key, (2, 2))
        steps, fitness, ended = jnp.int32(0), jnp.float32(0), jnp.asarray(False)
        return Slot(episode, words, state, observation, steps, fitness, ended)

    def step(slot: Slot, params: Params, moments: normalize.Moments | None) -> tuple[Slot, Array]:
        seen, action = act(params, moments, slot.observation, slot.words, slot.steps)
        after = simulate(slot.state, action)
        moved = slot._replace(
            state=after.state,
            observation=after.observation,
            steps=slot.steps + 1,
            fitness=slot.fitness + after.reward,
            ended=after.terminated | (slot.steps + 1 >= length),
        )
        return moved, seen

    def evaluate(
        key: Key[Array, ""], members: Members, moments: normalize.Moments | None
    ) -> Evaluation:
        members = policy.prepare(members)
        begun = jax.vmap(begin, (None, 0))(key, jnp.arange(num_members * rollouts))
        played = play(
            begun,
            lambda slot, own: step(slot, members.params(own), moments),
            seating(members.own, num_members=num_members, rollouts=rollouts),
            slots=slots or usual,
            observes=policy.observes,
        )
        return Evaluation(
            fitness=played.fitness.reshape(num_members, rollouts).mean(1),
            steps=played.steps.reshape(num_members, rollouts).sum(1),
            simulated=played.simulated,
            observed=played.observed,
        )

    return evaluate
