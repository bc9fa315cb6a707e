"""Episodes of a whole population in one compiled loop, for suites written in JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from nesht_jax.envs import distractors
from nesht_jax.envs.episode_queue import Episode, default_num_envs, make_assign_members, play
from nesht_jax.es.noise import normal
from nesht_jax.types import Evaluate, Evaluation, Moments, Params, Policy, Population, Task

Act = Callable[..., tuple[Float[Array, " features"], Float[Array, " a"]]]
"""``(params, moments, observation, random_bits, step, last_action) -> (what the policy sees, its
action)``."""


def make_act(task: Task, policy: Policy, *, action_noise: float) -> Act:
    """Makes what one member sees and does at a step.

    ``random_bits`` are the episode's own, the same at every step of it: two words for distractors,
    two for noise on actions.
    """
    normals = distractors.num_action_normals(task, action_noise, policy.stochastic)

    def act(
        params: Params,
        moments: Moments | None,
        observation: Float[Array, " o"],
        random_bits: UInt32[Array, "2 2"],
        step: Int[Array, ""],
        last_action: Float[Array, " _"],
    ) -> tuple[Float[Array, " features"], Float[Array, " a"]]:
        seen = distractors.append(observation, task, random_bits[0], step, last_action)
        action = distractors.act(
            policy.apply(params, moments, seen),
            normal(random_bits[1], step, (normals,)),
            task,
            action_noise=action_noise,
            stochastic=policy.stochastic,
        )
        return seen, action.astype(jnp.float32)

    return act


def episode_keys(
    key: Key[Array, ""],
    member: Int[Array, ""],
    episode: Int[Array, ""],
    *,
    common_random_numbers: bool,
) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Gives the keys of one episode: for its reset, and for all that is drawn on its way.

    Args:
        key: key of the generation, consumed whole.
        member: index of the member.
        episode: index among the episodes of the member.
        common_random_numbers: whether members 2j and 2j + 1, a mirrored pair, share reset keys.
    """
    reset_root, stream_root = jax.random.split(_threefry(key))
    seed = member // 2 if common_random_numbers else member
    return (
        jax.random.fold_in(jax.random.fold_in(reset_root, seed), episode),
        jax.random.fold_in(jax.random.fold_in(stream_root, member), episode),
    )


def _threefry(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key, or one drawn from it: of other generators a batch of keys may share its numbers."""
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    bits = jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(bits, impl="threefry2x32")


def make_pure_evaluate(
    task: Task,
    policy: Policy,
    *,
    num_members: int,
    episodes_per_member: int = 1,
    action_noise: float = 0.0,
    common_random_numbers: bool = False,
    num_envs: int | None = None,
) -> Evaluate:
    """Makes what plays a population's episodes in one loop, on few environments in turn.

    The return of an episode does not depend on the environment that plays it, nor on how many there
    are, but for the order in which a batch of another size is summed. See
    ``tasks.make_evaluate`` for the arguments.
    """
    total = num_members * episodes_per_member
    usual = default_num_envs(total, terminates=task.terminates)
    step = make_step(task, policy, action_noise=action_noise)
    reset = jax.jit(task.simulator.reset)

    def begin(key: Key[Array, ""], first: int | Int[Array, ""], number: Int[Array, ""]) -> Episode:
        member, episode = number // episodes_per_member, number % episodes_per_member
        reset_key, stream_key = episode_keys(
            key, first + member, episode, common_random_numbers=common_random_numbers
        )
        state, observation = reset(reset_key)
        random_bits = jax.random.bits(stream_key, (2, 2), jnp.uint32)
        return Episode(
            number,
            random_bits,
            state,
            observation,
            last_action=distractors.no_action(task),
            steps=jnp.int32(0),
            returns=jnp.float32(0),
            terminated=jnp.asarray(False),
            ended=jnp.asarray(False),
        )

    def evaluate(
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        population = policy.prepare(population)
        numbers = jnp.arange(total, dtype=jnp.int32)
        played = play(
            jax.vmap(begin, (None, None, 0))(key, population.first, numbers),
            lambda episode, drawn: step(episode, population.assemble(drawn), moments, horizon),
            make_assign_members(
                population.draw, num_members=num_members, episodes_per_member=episodes_per_member
            ),
            num_envs=num_envs or usual,
            gather_moments=policy.uses_moments,
        )
        by_member = (num_members, episodes_per_member)
        return Evaluation(
            fitness=played.returns.reshape(by_member).mean(1),
            steps=played.steps.reshape(by_member).sum(1, dtype=jnp.int32),
            simulated_steps=played.simulated_steps,
            observed=played.observed,
            terminated_at=(played.steps * played.terminated).reshape(by_member),
        )

    return evaluate


def make_step(
    task: Task, policy: Policy, *, action_noise: float
) -> Callable[..., tuple[Episode, Float[Array, " features"]]]:
    """Makes one step of one episode: ``(episode, params, moments, horizon) -> (episode, what was
    seen)``. The horizon cuts it where the task does not do so sooner; None: the task alone does.

    An episode fails, and ends with a return of NaN, where it shows the policy what is not finite,
    a step that does not count, or where its reward is not finite.
    """
    act, own_horizon = make_act(task, policy, action_noise=action_noise), task.horizon
    if own_horizon is None:
        raise ValueError(f"{task.name} has no time limit of its own: set horizon")
    # jitted, so that the loops around it do not trace a simulator again and again
    simulate = jax.jit(task.simulator.step)

    def step(
        episode: Episode,
        params: Params,
        moments: Moments | None,
        horizon: Int[Array, ""] | None = None,
    ) -> tuple[Episode, Float[Array, " features"]]:
        seen, action = act(
            params,
            moments,
            episode.observation,
            episode.random_bits,
            episode.steps,
            episode.last_action,
        )
        after = simulate(episode.state, action)
        shown = jnp.isfinite(episode.observation).all()
        failed = ~shown | ~jnp.isfinite(after.reward)
        steps = episode.steps + shown.astype(jnp.int32)
        last = own_horizon if horizon is None else jnp.minimum(horizon, own_horizon)
        moved = episode._replace(
            state=after.state,
            observation=after.observation,
            last_action=action[: episode.last_action.size],
            steps=steps,
            returns=jnp.where(failed, jnp.nan, episode.returns + after.reward),
            terminated=after.terminated,
            ended=after.terminated | (steps >= last) | failed,
        )
        return moved, seen

    return step
