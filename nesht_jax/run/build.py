"""A config, turned into what training needs: read it downward, task first."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum
from operator import attrgetter
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key, Shaped

from nesht_jax.envs.tasks import make_evaluate, make_task, reference_observations, suite_of
from nesht_jax.es import shaping
from nesht_jax.es.nes import Algorithm, nesht
from nesht_jax.policy import normalize
from nesht_jax.policy.convolution import CONVOLUTIONS
from nesht_jax.policy.policy import make_policy, unreachable
from nesht_jax.rl.agent import Agent
from nesht_jax.run import processes
from nesht_jax.run.agent import RunState, build_agent, first_state
from nesht_jax.run.architecture import Search, build_search, searching
from nesht_jax.run.config import Config
from nesht_jax.run.host_shares import HostShares
from nesht_jax.run.machine import memory
from nesht_jax.run.optimizer import (
    build_optimizer,
    build_projection,
    check_kept,
    check_power,
    num_selected_from,
)
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.shares import make_mesh, shared, shared_noise
from nesht_jax.sparse.projection import Projection
from nesht_jax.sparse.significance import with_phantoms
from nesht_jax.types import Evaluate, HostEvaluate, Moments, Params, Policy, Task

SHAPINGS = {
    "centered_rank": shaping.centered_rank,
    "centered_rank_by_order": shaping.centered_rank_by_order,
    "standardize": shaping.standardize,
    "wierstra": shaping.wierstra,
    "identity": shaping.identity,
}

REFERENCES = 128
"""Observations of virtual batch normalization, as many as OpenAI-ES takes."""


class Stream(IntEnum):
    """Independent streams of random numbers of one seed; see ``stream``."""

    SIMULATOR = 0
    EVALUATION = 1
    REFERENCES = 2
    FINAL = 3
    REPORT = 4
    MASKS = 5
    NOISE = 6


def stream(seed: int, which: Stream) -> int:
    """Gives the seed of one stream, so that no two streams of any two seeds are the same.

    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return int(np.random.SeedSequence([seed, which]).generate_state(1)[0] >> 1)


Values = dict[str, Shaped[Array, ""]]
"""Numbers that stand for those of a config, by the names of their options."""


class Given(NamedTuple):
    """What a compiled program takes of a config, so that runs may share the program.

    Attributes:
        evaluations: key of the evaluations of the run.
        values: values of the options that differ between the runs of the program.
    """

    evaluations: Key[Array, ""]
    values: Values


def given(config: Config, names: Sequence[str] = ()) -> Given:
    """Reads from a config what a program takes: its seed, and the values of these options."""
    root = jax.random.key(stream(config.seed, Stream.EVALUATION), impl="threefry2x32")
    told = {name: np.asarray(attrgetter(name)(config)) for name in names}
    kinds = {"i": np.int32, "f": np.float32}
    return Given(root, {n: jnp.asarray(v, kinds[v.dtype.kind]) for n, v in told.items()})


def traceable(config: Config) -> tuple[str, ...]:
    """Lists the options whose values a program can take as arguments, seed left out."""
    chosen, names = config.sparsity, ["algorithm.sigma", "optimizer.learning_rate"]
    if chosen.thresholds and chosen.rule == "top_k" and chosen.scope != "erdos_renyi_kernel":
        by_count = chosen.keep is not None
        if by_count or chosen.fraction == round(chosen.fraction, 6):  # see num_kept_of_array
            names.append("sparsity.keep" if by_count else "sparsity.fraction")
    return tuple(names)


class Experiment(NamedTuple):
    """A config, resolved into what training needs.

    Attributes:
        config: config itself, with the number of its shares.
        task: what is played.
        policy: what plays it.
        algorithm: what improves the params: an evolution strategy, or an agent.
        projection: what makes params sparse, for evaluations between two thresholdings; None where
            the center is played as it is.
        projects: generation -> whether its center is projected to be played: not before the first
            thresholding, nor after the last.
        state: state before the first generation.
        horizon: generation -> steps after which its episodes are cut; None: as the task says.
        search: what makes the policy's params of the weights and of an architecture; None where
            they are the weights.
    """

    config: Config
    task: Task
    policy: Policy
    algorithm: Algorithm | Agent
    projection: Projection | None
    projects: Callable[[Int[Array, ""]], Bool[Array, ""]]
    state: RunState
    horizon: Callable[[Int[Array, ""]], Int[Array, ""]] | None = None
    search: Search | None = None


def build(config: Config) -> Experiment:
    """Makes what a config names, and the state before the first generation.

    Raises:
        ValueError: in one sentence, if something named does not exist or does not fit.
    """
    task = build_task(config)
    if config.shares is None:
        config = replace(config, shares=default_shares(config, task))
    # pinned, so that no ambient default kind of key changes a run
    key = jax.random.key(config.seed, impl="threefry2x32")
    if config.agent.name is not None:
        return _build_with_agent(config, task, key)
    policy = build_policy(config, task)
    init_key, run_key = jax.random.split(key)
    # weights, two moments of the optimizer, one perturbation
    check_fits("policy.hidden", policy.init, init_key, copies=4)
    params = policy.init(init_key)
    search = build_search(config, task, policy)
    if search is not None:
        params = search.structure.init(jax.random.fold_in(init_key, 2), params)
    if config.sparsity.selects:
        params = with_phantoms(params)
    projection = build_projection(config.sparsity, policy.layers, params)
    algorithm = build_algorithm(config, policy, projection, params, search)
    moments = Moments.empty(task.num_features) if policy.uses_moments else None
    state = algorithm.init(run_key, params, moments=moments)
    return Experiment(
        config,
        task,
        policy,
        algorithm,
        projection,
        _between_cuts(config.sparsity),
        state,
        horizon_schedule(config, task),
        search,
    )


def check_sparsity(experiment: Experiment) -> None:
    """Warns where training would keep too few weights, or mostly chance would choose them."""
    config, params = experiment.config, experiment.state.params
    if config.sparsity.selects:
        weights = num_selected_from(config.sparsity, experiment.policy.layers, params)
        check_power(config, weights)
    if (projection := experiment.projection) is not None:
        check_kept(config, experiment.task, projection, params)
        check_power(config, projection.units.num_weights(params))


def _build_with_agent(config: Config, task: Task, key: Key[Array, ""]) -> Experiment:
    agent = build_agent(config, task, _masks_key(config))
    check_fits("the agent with its replay", agent.init, key, copies=1)
    state = first_state(config, task, agent, key)
    return Experiment(config, task, agent.policy, agent, None, _never, state)


def check_fits(
    what: str, init: Callable[[Key[Array, ""]], Any], key: Key[Array, ""], *, copies: int
) -> None:
    """Refuses what would not fit into memory, before any of it is made.

    Args:
        what: what a sentence calls it.
        init: function of the key that makes it.
        key: key for ``init``.
        copies: how many copies of it there will be.

    Raises:
        ValueError: if all copies are larger than the memory of this machine.
    """
    arrays = jax.tree.leaves(jax.eval_shape(init, key))
    size = copies * sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
    if size > (room := memory()):
        raise ValueError(
            f"{what} would take at least {size / 2**30:,.0f} GiB of memory, of which this machine "
            f"has {room / 2**30:,.0f}"
        )


def _never(generation: Int[Array, ""]) -> Bool[Array, ""]:
    return jnp.asarray(False)


def _masks_key(config: Config) -> Key[Array, ""]:
    return jax.random.key(stream(config.seed, Stream.MASKS), impl="threefry2x32")


def build_algorithm(
    config: Config,
    policy: Policy,
    projection: Projection | None,
    params: Params,
    search: Search | None,
    values: Values | None = None,
) -> Algorithm:
    """Makes the algorithm of a config, with these values in place of its own."""
    mesh, shares = mesh_of(config), config.shares or 1
    algorithm = nesht(
        num_members=config.algorithm.num_members,
        sigma=sigma_schedule(config, values),
        optimizer=build_optimizer(
            config,
            policy.layers,
            projection,
            params,
            key=_masks_key(config),
            values=values,
        ),
        mirrored=config.algorithm.mirrored,
        rank=config.algorithm.rank,
        sigma_per=config.algorithm.sigma_per,
        shaping=build_shaping(config),
        sum_noise=None if mesh is None else shared_noise(mesh, shares),
    )
    return algorithm if search is None else searching(config, algorithm, search)


def with_values(experiment: Experiment, values: Values) -> Experiment:
    """Gives the experiment with these values in place of those of its config; its state stays."""
    if not values:
        return experiment
    config, policy, params = experiment.config, experiment.policy, experiment.state.params
    projection = build_projection(config.sparsity, policy.layers, params, values)
    algorithm = build_algorithm(config, policy, projection, params, experiment.search, values)
    return experiment._replace(projection=projection, algorithm=algorithm)


def _between_cuts(chosen: SparsityConfig) -> Callable[[Int[Array, ""]], Bool[Array, ""]]:
    last = jnp.iinfo(jnp.int32).max
    if chosen.end is not None:
        last = chosen.end - (chosen.end - chosen.begin - 1) % chosen.every
    return lambda generation: (generation > chosen.begin) & (generation < last)


def build_task(config: Config) -> Task:
    """Makes the task of a config; where the horizon grows, with the longest."""
    grows = config.horizon_growth > 1
    return make_task(
        config.task,
        distractors=config.distractors,
        distractor_kind=config.distractor_kind,
        horizon=config.evaluation.horizon if grows else config.horizon,
        options=config.task_options,
    )


def horizon_schedule(
    config: Config, task: Task
) -> Callable[[Int[Array, ""]], Int[Array, ""]] | None:
    """Makes the horizon as a function of the generation, counted from 0; None where it is fixed."""
    first, longest = config.horizon, task.horizon
    if config.horizon_growth == 1 or first is None or longest is None:
        return None

    def horizon(generation: Int[Array, ""]) -> Int[Array, ""]:
        grown = first * jnp.float32(config.horizon_growth) ** (
            generation // config.horizon_growth_every
        )
        return jnp.minimum(jnp.round(grown), longest).astype(jnp.int32)

    return horizon


def build_shaping(config: Config) -> shaping.Shaping:
    """Makes the map from fitness to utility of a config."""
    chosen = config.algorithm
    shape = SHAPINGS[chosen.shaping]
    if chosen.best_directions is None:
        return shape
    return shaping.best_directions(shape, chosen.best_directions)


def mesh_of(config: Config) -> Mesh | None:
    """Gives the mesh that the shares of a config are laid over; None where there is one share.

    Raises:
        ValueError: if there are more processes than shares.
    """
    shares = config.shares or 1
    if processes.number() > shares:
        raise ValueError(
            f"{processes.number()} processes share the population, so shares must be at least as "
            f"many, got {shares}"
        )
    return None if shares == 1 else make_mesh(shares, processes.devices_of_all())


def default_shares(config: Config, task: Task) -> int:
    """Chooses the shares of a run that is told none: one for each device, or process."""
    in_jax = suite_of(task).host_evaluate is None
    wanted = jax.device_count() if in_jax else processes.number()
    return min(2 ** (wanted.bit_length() - 1), config.most_shares)


def build_training(config: Config, experiment: Experiment) -> Evaluate:
    """Makes what plays the population of a config."""
    algorithm, mesh, shares = config.algorithm, mesh_of(config), config.shares or 1
    size = config.num_played // shares

    def play(share: int = 0) -> Evaluate:
        seed = stream(config.seed, Stream.SIMULATOR)
        return make_evaluate(
            experiment.task,
            experiment.policy,
            num_members=size,
            episodes_per_member=algorithm.episodes_per_member,
            action_noise=algorithm.action_noise,
            common_random_numbers=algorithm.common_random_numbers and algorithm.mirrored,
            alive_bonus=algorithm.alive_bonus,
            fall_cost=algorithm.fall_cost,
            num_envs=config.num_envs,
            seed=seed if mesh is None else _seed_of_share(seed, share),
        )

    if mesh is None:
        return play()
    if suite_of(experiment.task).host_evaluate is None:
        return shared(play(), mesh=mesh, num_members=config.num_played, shares=shares)
    made = cast(Callable[[int], HostEvaluate], play)
    return HostShares(made, size=size, shares=shares, mesh=mesh)


def _seed_of_share(seed: int, share: int) -> int:
    return int(np.random.SeedSequence([seed, share]).generate_state(1)[0] >> 1)


def build_policy(config: Config, task: Task) -> Policy:
    """Makes the policy of a config for a task; warns if it cannot reach all of the actions."""
    chosen = config.policy
    reference = None
    if chosen.normalization == "virtual_batch":
        seed = stream(config.seed, Stream.REFERENCES)
        reference = reference_observations(task, number=REFERENCES, seed=seed)
    if sentence := unreachable(task, chosen.output):
        warnings.warn(sentence, stacklevel=2)
    own = "activations" in config.search.space
    activation = None if own else {"tanh": jnp.tanh, "relu": jax.nn.relu}[chosen.activation]
    return make_policy(
        task,
        hidden=chosen.hidden,
        activation=activation,
        output=chosen.output,
        start=chosen.start,
        convolutions=CONVOLUTIONS[chosen.convolutions],
        normalize={
            "running": lambda: normalize.by_running_moments(chosen.clip),
            "observation": normalize.by_observation,
            "virtual_batch": normalize.unnormalized,
            "none": normalize.unnormalized,
        }[chosen.normalization](),
        reference=reference,
    )


def sigma_schedule(config: Config, values: Values | None = None) -> optax.Schedule:
    """Makes σ as a function of the generation, counted from 0."""
    chosen = config.algorithm
    start = (values or {}).get("algorithm.sigma", chosen.sigma)

    def sigma(generation):
        decays = (generation + 2) // chosen.sigma_decay_every  # t = generation + 1
        return start * jnp.float32(chosen.sigma_decay) ** decays

    return sigma
