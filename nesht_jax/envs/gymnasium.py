"""Any environment that Gymnasium knows, stepped on the host by Gymnasium's own vector environments.

Resets and noise features are drawn from the generation's key and the number of the episode alone:
nothing is carried from call to call, and no return depends on the number of slots, but for the
order in which a batch of another size is summed.
"""

import weakref
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax import normalize
from nesht_jax.contract import Evaluation, Members
from nesht_jax.envs import noisy
from nesht_jax.envs.gymnasium_vector import (
    as_actions,
    as_features,
    cores,
    make_one,
    make_vector,
    names,
    registered,
    sizes,
)
from nesht_jax.envs.host import batched_act, normals
from nesht_jax.envs.task import TaskOptions, TaskSpec, episode_length
from nesht_jax.policy import Policy

__all__ = ["make_host_evaluate", "names", "registered", "spec"]

SLOTS = 16
"""Episodes played at once in one process: enough to hide the call of the policy."""

SLOTS_A_CORE = 4
"""The same with a process for each slot, where every message costs."""


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task.

    Raises:
        ValueError: if the task cannot be made, has no such option, or has spaces without a fixed
            number of features, or of scores.
    """
    env = make_one(name, options)
    limit = gymnasium.registry[name].max_episode_steps
    made = TaskSpec(*sizes(name, env), limit)
    env.close()
    return made


class GymnasiumEvaluate:
    """A queue of episodes on a vector environment; a slot whose episode ends takes the next one.

    Args:
        slots: episodes played at once; None: 16 in one process, else 4 a core.
        options: of the environment, and ``vectorization_mode``: ``"sync"``, the default, steps in
            this process; ``"async"`` in a process for each slot, for environments whose steps are
            slow.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        num_members: int,
        rollouts: int,
        noise: int,
        horizon: int | None,
        action_noise: float,
        common_random_numbers: bool,
        slots: int | None,
        seed: int,
        options: TaskOptions,
    ) -> None:
        del seed  # all that is drawn here is drawn from the key
        task = spec(name, options)
        length = episode_length(task, horizon)
        self._shape = (num_members, rollouts)
        total = num_members * rollouts
        usual = SLOTS_A_CORE * cores() if options.get("vectorization_mode") == "async" else SLOTS
        self._slots = min(slots or usual, total)
        member, rollout = np.divmod(np.arange(total), rollouts)
        self._stream = (member // 2 if common_random_numbers else member) * rollouts + rollout
        self._vector = make_vector(name, options, slots=self._slots, horizon=length)
        self._close = weakref.finalize(self, self._vector.close)
        self._act = batched_act(policy, task, action_noise)
        self._widths = (
            task.observation_size,
            task.observation_size * noise,
            noisy.jitters(task, action_noise=action_noise, samples=policy.samples),
        )
        self._policy = policy

    def seek(self, calls: int) -> None:
        """Nothing to do: a call is a function of its key."""

    def __call__(
        self, key: Key[Array, ""], members: Members, moments: normalize.Moments | None
    ) -> Evaluation:
        """Plays every episode once."""
        table = _Table(key, self._slots, self._stream, self._widths)
        observed = normalize.empty(sum(self._widths[:2])) if self._policy.observes else None
        members = self._policy.prepare(members)
        try:
            table.sit(self._vector, np.ones(self._slots, bool))
            own = _seat(members, None, table.changed, table.episode // self._shape[1])
            while table.busy.any():
                action, observed = self._act(
                    members.params,
                    moments,
                    own,
                    table.seen,
                    table.jitter,
                    observed,
                    table.busy,
                )
                table.step(self._vector, np.asarray(action))
                if table.changed.any():
                    own = _seat(members, own, table.changed, table.episode // self._shape[1])
        except BaseException:
            # processes that wait for each other are not asked to end
            self._vector.close(terminate=True)
            raise
        return Evaluation(
            fitness=jnp.asarray(table.returns.reshape(self._shape).mean(1), jnp.float32),
            steps=jnp.asarray(table.steps.reshape(self._shape).sum(1)),
            simulated=jnp.asarray(table.steps.sum()),
            observed=observed,
        )


make_host_evaluate = GymnasiumEvaluate


class _Table:
    """The episodes of one call, as they are played.

    Attributes:
        episode: of each slot.
        busy: slots whose episode goes on.
        changed: slots that have just begun one.
        seen: what the policy sees.
        jitter: N(0, 1) for the noise on actions.
        returns: so far, of each episode.
        steps: done, of each episode.
    """

    def __init__(
        self, key: Key[Array, ""], slots: int, stream: np.ndarray, widths: tuple[int, int, int]
    ) -> None:
        self._entropy = np.asarray(jax.random.key_data(key)).tolist()
        root = np.random.SeedSequence(self._entropy, spawn_key=(0,))
        self._seeds = (root.generate_state(stream.max() + 1) >> 1)[stream]
        self._bits: list[Any] = [None] * slots
        self._waiting = 0
        self._size, noise, jitters = widths
        self.seen = np.zeros((slots, self._size + noise), np.float32)
        self.jitter = np.zeros((slots, jitters), np.float32)
        self.episode = np.zeros(slots, np.int32)
        self.busy, self.changed = np.zeros((2, slots), bool)
        self.returns, self.steps = np.zeros(stream.size), np.zeros(stream.size, np.int32)

    def sit(self, vector: gymnasium.vector.VectorEnv, free: Bool[np.ndarray, " slots"]) -> None:
        """Gives the free slots the episodes that wait, as far as there are."""
        seeds: Any = [None] * len(free)  # None parks a slot
        for slot in np.flatnonzero(free):
            self.busy[slot] = self.changed[slot] = self._waiting < len(self.steps)
            if self.busy[slot]:
                self.episode[slot] = self._waiting
                seeds[slot] = int(self._seeds[self._waiting])
                stream = np.random.SeedSequence(self._entropy, spawn_key=(1, self._waiting))
                self._bits[slot] = np.random.SFC64(stream)
                self._waiting += 1
        observation, _ = vector.reset(seed=seeds, options={"reset_mask": free})
        self._look(vector, observation)

    def step(
        self, vector: gymnasium.vector.VectorEnv, action: Float[np.ndarray, "slots a"]
    ) -> None:
        """One step in every busy slot; those whose episode ends take the next one."""
        actions = as_actions(vector.single_action_space, action)
        observation, reward, terminated, truncated, _ = vector.step(actions)
        self.returns[self.episode[self.busy]] += reward[self.busy]
        self.steps[self.episode[self.busy]] += 1
        self.changed[:] = False
        ended = self.busy & (terminated | truncated)
        if ended.any():
            self.sit(vector, ended)
        else:
            self._look(vector, observation)

    def _look(self, vector: gymnasium.vector.VectorEnv, observation: Any) -> None:
        """What the busy slots see next; every episode draws from a stream of its own."""
        self.seen[:, : self._size] = as_features(vector, observation)
        for slot in np.flatnonzero(self.busy):
            noise, jitter = self.seen[slot, self._size :], self.jitter[slot]
            noise[:] = normals(self._bits[slot], noise.shape)
            jitter[:] = normals(self._bits[slot], jitter.shape)


@jax.jit
def _seat(
    members: Members,
    own: Any,
    changed: Bool[Array, " slots"],
    indices: Int[Array, " slots"],
) -> Any:
    """What every slot's member has of its own, made anew, one by one, where it has changed."""
    if own is None:
        return jax.lax.map(members.own, indices)

    def one(slot: tuple[Any, Array, Array]) -> Any:
        before, change, i = slot
        return jax.lax.cond(change, lambda: members.own(i), lambda: before)

    return jax.lax.map(one, (own, changed, indices))
