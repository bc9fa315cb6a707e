"""Other libraries' evolution strategies, each driven by its own public means.

Each is given a ``Problem`` and tells a ``judge`` its center after every generation; the judge stops
the clock while it evaluates, and raises to end the run. All search the same linear policy from the
same first center: a tanh of one dense layer on the observation, standardized across its features.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nesht_jax.envs.host import cores
from nesht_jax.run.build import build
from nesht_jax.run.config import Config
from nesht_jax.types import Params, Policy, Task

Judge = Callable[..., None]
"""``judge(params, generations=..., steps=...)``."""


class Problem(NamedTuple):
    """What every contender is given.

    Attributes:
        config: task, settings and seed, in our words.
        task: the task, made.
        policy: the network.
        params: the first center.
    """

    config: Config
    task: Task
    policy: Policy
    params: Params

    @property
    def name(self) -> str:
        """Name of the task, without its suite."""
        return self.config.task.partition("/")[2]

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut."""
        assert self.task.horizon is not None, "every task of the table has a time limit"
        return self.task.horizon


def make_problem(config: Config) -> Problem:
    """Makes the problem that a config states."""
    experiment = build(config)
    return Problem(config, experiment.task, experiment.policy, experiment.state.params)


def brax_es(problem: Problem, judge: Judge) -> None:
    """Runs ``brax.training.agents.es``. Its evaluator is handed every center, and is ours."""
    from brax import envs
    from brax.training import acting
    from brax.training.agents.es import train as es

    acting.Evaluator = lambda *arguments, **options: _BraxEvaluator(problem, judge)  # pyright: ignore
    es.train(
        envs.get_environment(problem.name, backend="spring"),
        num_timesteps=2**30,
        num_evals=2**30,  # after every generation
        episode_length=problem.horizon,
        population_size=problem.config.algorithm.num_members // 2,
        learning_rate=problem.config.optimizer.learning_rate,
        fitness_shaping=es.FitnessShaping.CENTERED_RANK,
        perturbation_std=problem.config.algorithm.sigma,
        seed=problem.config.seed,
        network_factory=lambda *sizes, **options: _brax_network(problem),
    )


class _BraxEvaluator:
    """Stands in for ``acting.Evaluator``."""

    def __init__(self, problem: Problem, judge: Judge) -> None:
        self._problem, self._judge, self._generations = problem, judge, 0

    def run_evaluation(self, params: Any, training_metrics: dict) -> dict:
        """Called once before training, without metrics, and after every generation."""
        if training_metrics:
            self._generations += 1
            # of useful steps it does not tell: these are the simulated ones
            num_members = self._problem.config.algorithm.num_members
            steps = self._generations * num_members * self._problem.horizon
            self._judge(params[1], generations=self._generations, steps=steps)
        return training_metrics


def _brax_network(problem: Problem) -> Any:
    """Our policy. Theirs draws its actions; this one, like all others here, does not."""
    from brax.training.agents.es.networks import ESNetworks
    from brax.training.networks import FeedForwardNetwork

    def apply(moments: Any, params: Any, observation: jax.Array) -> jax.Array:
        return problem.policy.apply(params, None, observation)

    made: Any = ESNetworks  # a flax dataclass, whose fields pyright does not see
    deterministic = SimpleNamespace(sample=lambda action, key: action)
    return made(FeedForwardNetwork(lambda key: problem.params, apply), deterministic)


def evosax(problem: Problem, judge: Judge) -> None:
    """Runs Open_ES on its BraxProblem: a generation is one compiled program, without metrics."""
    from evosax.algorithms import Open_ES  # pyright: ignore

    ours, task = problem.config.algorithm, _evosax_task(problem)
    algorithm = Open_ES(
        population_size=ours.num_members,
        solution=problem.params,
        use_antithetic_sampling=ours.mirrored,
        optimizer=optax.adam(problem.config.optimizer.learning_rate),
        std_schedule=optax.constant_schedule(ours.sigma),
        metrics_fn=lambda *arguments: {},
    )
    settings = algorithm.default_params

    @jax.jit
    def generation(key: jax.Array, state: Any, task_state: Any) -> tuple[Any, Any, Any]:
        ask_key, play_key, tell_key = jax.random.split(key, 3)
        population, state = algorithm.ask(ask_key, state, settings)
        returns, task_state, _ = task.eval(play_key, population, task_state)
        state, _ = algorithm.tell(tell_key, population, -returns, state, settings)  # it minimizes
        return state, task_state, algorithm.get_mean(state)

    key = jax.random.key(problem.config.seed)
    state, task_state = algorithm.init(key, problem.params, settings), task.init(key)
    for number in range(1, 2**30):
        key, generation_key = jax.random.split(key)
        state, task_state, center = generation(generation_key, state, task_state)
        judge(center, generations=number, steps=number * ours.num_members * problem.horizon)


def _evosax_task(problem: Problem) -> Any:
    from evosax.problems.rl.brax import BraxProblem  # pyright: ignore

    policy: Any = SimpleNamespace(
        init=lambda key, observation, _: problem.params,
        apply=lambda params, observation, _: problem.policy.apply(params, None, observation),
    )
    return BraxProblem(
        problem.name, policy, episode_length=problem.horizon, use_normalize_obs=False
    )


def evotorch(problem: Problem, judge: Judge) -> None:
    """Runs PGPE with a standard deviation that stays: OpenAI-ES. A Ray actor a core."""
    import torch  # pyright: ignore
    from evotorch.algorithms import PGPE  # pyright: ignore

    config, ours = problem.config, problem.config.algorithm
    torch.manual_seed(config.seed)
    search = PGPE(
        _evotorch_task(problem),
        popsize=ours.num_members,
        center_learning_rate=config.optimizer.learning_rate,
        stdev_learning_rate=0.0,
        stdev_init=ours.sigma,
        stdev_max_change=None,
        optimizer="adam",
        ranking_method="centered",
        center_init=torch.tensor(_torch_order(problem.params)),
        symmetric=ours.mirrored,
    )
    observations, actions = problem.params["layer0"]["kernel"].shape
    size = observations * actions
    for number in range(1, 2**30):
        search.step()
        weights = jnp.asarray(search.status["center"].numpy())
        kernel = weights[:size].reshape(actions, observations).T
        center = {"layer0": {"kernel": kernel, "bias": weights[size:]}}
        steps = int(search.status["total_interaction_count"])
        judge(center, generations=number, steps=steps)


def _evotorch_task(problem: Problem) -> Any:
    import gymnasium
    import ray  # pyright: ignore
    import torch  # pyright: ignore
    from evotorch.neuroevolution import GymNE  # pyright: ignore

    name, horizon = problem.name, problem.horizon
    observations, actions = problem.params["layer0"]["kernel"].shape

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(observations, actions)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x - x.mean()
            return torch.tanh(self.layer(x / (x.square().mean().sqrt() + 1e-5)))

    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    return GymNE(
        lambda: gymnasium.make(name, disable_env_checker=True, max_episode_steps=horizon),
        Linear,
        num_actors=cores(),
        actor_config={"num_cpus": 1},
    )


def _torch_order(params: Params) -> np.ndarray:
    layer = params["layer0"]
    return np.concatenate([np.asarray(layer["kernel"]).T.ravel(), np.asarray(layer["bias"])])
