"""A trained policy, out of its run folder: observation in, action out."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nesht_jax.report.reading import Reading
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import learned
from nesht_jax.run.policies import Which
from nesht_jax.run.reading import reading
from nesht_jax.types import Moments, Params, Policy, Task, replicate


class TrainedPolicy:
    """A policy with its weights, as sparse as its method makes it.

    Attributes:
        config: config of its run.
        task: task that it was trained on, with the names of features and actions.
        policy: network, with its params left out.
        params: params of the network, dead weights zero.
        moments: running moments of observations; None where the policy uses none.
        reading: which sensors it reads, and for what; None of images.
    """

    def __init__(
        self, config: Config, task: Task, policy: Policy, params: Params, moments: Moments | None
    ) -> None:
        self.config, self.task, self.policy = config, task, policy
        self.params, self.moments = params, moments
        self.reading: Reading | None = reading(config, task, policy, params)
        prepared = policy.prepare(replicate(params))(0)
        act = partial(policy.apply, prepared, moments)
        self._apply = jax.jit(jnp.vectorize(act, signature="(o)->(a)"))

    def __call__(self, observation: Any) -> Array | np.ndarray:
        """Acts on an observation [o], as flat as the suite shows it, distractors included; or on
        each of many, along leading axes.

        NumPy in gives NumPy out, JAX in gives JAX out, also under ``jit`` and ``vmap``. Of choices
        the result is the index of the highest score.

        Raises:
            ValueError: if an observation has not as many features as the task shows.
        """
        action = self._scored(observation)
        action = jnp.argmax(action, axis=-1) if self.task.discrete else action
        return action if isinstance(observation, jax.Array) else np.asarray(action)

    @property
    def mask(self) -> Params:
        """Whether each weight takes part, as it is not 0; shaped like ``params``."""
        return jax.tree.map(lambda leaf: np.asarray(leaf) != 0, self.params)

    def scores(self, observation: Any) -> Float[np.ndarray, "*batch a"]:
        """What the network says of an observation, which suites take: of choices their scores."""
        return np.asarray(self._scored(observation))

    def _scored(self, observation: Any) -> Float[Array, "*batch a"]:
        seen, features = jnp.asarray(observation, jnp.float32), self.task.num_features
        if seen.shape[-1:] != (features,):
            raise ValueError(
                f"an observation of {self.task.name} has {features} features, got shape "
                f"{list(seen.shape)}"
            )
        return self._apply(seen)


def load(
    folder: str | Path, generation: Which | None = None, *, trust: bool = False
) -> TrainedPolicy:
    """Loads the policy of a run folder.

    Args:
        folder: run folder.
        generation: generation of an evaluation, or ``"best"``: that whose mean return was highest.
            None: the newest checkpoint or, of a run without one, the best evaluation.
        trust: whether a module that the task of the run names, as ``gymnasium/my_module:My-v0``,
            may be imported, if it is not yet: whatever is in it runs.

    Raises:
        ValueError: if the run does not read, names a module without trust, or keeps no such policy.
    """
    config, experiment, at = learned(Path(folder), generation, trust=trust)
    return TrainedPolicy(config, experiment.task, experiment.policy, at.params, at.moments)
