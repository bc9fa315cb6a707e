"""A config, turned into what training needs."""

import dataclasses
import math
from collections.abc import Hashable
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from nesht_jax import normalize, shaping
from nesht_jax.contract import Evaluate, Params
from nesht_jax.density import erdos_renyi_kernel
from nesht_jax.envs import make_evaluate, reference_observations, task_spec
from nesht_jax.envs.task import TaskSpec
from nesht_jax.nesht import Algorithm, State, nesht
from nesht_jax.network import CONVOLUTIONS, kernel_shapes
from nesht_jax.policy import Policy, make_policy
from nesht_jax.run.config import Config, nearest, optimizers
from nesht_jax.threshold import hard_thresholding, masked_moments, num_kept

SHAPINGS = {
    "centered_rank": shaping.centered_rank,
    "centered_rank_by_order": shaping.centered_rank_by_order,
    "standardize": shaping.standardize,
    "wierstra": shaping.wierstra,
    "identity": shaping.identity,
}


REFERENCES = 128
"""Observations of virtual batch normalisation, as many as OpenAI-ES takes."""


class Setup(NamedTuple):
    """A config, resolved into what training needs."""

    spec: TaskSpec
    policy: Policy
    algorithm: Algorithm
    evaluate: Evaluate
    state: State


def build(config: Config) -> Setup:
    """Makes everything a config names, and the state before the first generation.

    Raises:
        ValueError: in one sentence, if something named does not exist or does not fit.
    """
    spec = task_spec(config.task, config.task_options)
    policy = build_policy(config, spec)
    algorithm, state = build_algorithm(config, spec, policy)
    evaluate = make_evaluate(
        config.task,
        policy,
        num_members=config.members,
        noise=config.noise,
        rollouts=config.rollouts,
        horizon=config.horizon,
        action_noise=config.action_noise,
        common_random_numbers=config.common_random_numbers and config.mirrored,
        slots=config.slots,
        seed=config.seed,
        options=config.task_options,
    )
    return Setup(spec, policy, algorithm, evaluate, state)


def build_algorithm(config: Config, spec: TaskSpec, policy: Policy) -> tuple[Algorithm, State]:
    """The algorithm of a config, and its state before the first generation."""
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    params = policy.init(init_key)
    algorithm = nesht(
        num_members=config.members,
        sigma=_sigma_schedule(config),
        optimizer=_optimizer(config, params),
        mirrored=config.mirrored,
        rank=config.rank,
        shaping=SHAPINGS[config.shaping],
    )
    features = spec.observation_size * (1 + config.noise)
    moments = normalize.empty(features) if policy.observes else None
    return algorithm, algorithm.init(run_key, params, moments=moments)


def build_policy(config: Config, spec: TaskSpec) -> Policy:
    """The policy of a config for a task."""
    normalizers = {
        "observation": normalize.per_observation,
        "running": lambda: normalize.running(config.policy.clip),
        "virtual_batch": normalize.none,
        "none": normalize.none,
    }
    reference = None
    if config.policy.normalization == "virtual_batch":
        reference = reference_observations(
            config.task,
            number=REFERENCES,
            noise=config.noise,
            seed=config.seed,
            options=config.task_options,
        )
    return make_policy(
        spec.observation_size * (1 + config.noise),
        spec.action_low,
        spec.action_high,
        hidden=config.policy.hidden,
        activation={"tanh": jnp.tanh, "relu": jax.nn.relu}[config.policy.activation],
        output=config.policy.output,
        convolutions=CONVOLUTIONS[config.policy.convolutions],
        frames=spec.frames and (spec.frames[0] * (1 + config.noise), *spec.frames[1:]),
        normalizer=normalizers[config.policy.normalization](),
        reference=reference,
    )


def thresholded(config: Config, params: Params) -> Params:
    """The centre as the config thresholds it, whether or not its last update did."""
    if config.threshold.sparsity == 0:
        return params
    once = dataclasses.replace(config, threshold=dataclasses.replace(config.threshold, every=1))
    link = _thresholding(once, params)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = link.update(still, link.init(params), params)
    return optax.apply_updates(params, updates)


def _sigma_schedule(config: Config) -> optax.Schedule:
    def sigma(generation):
        decays = (generation + 2) // config.sigma_decay_every  # t = generation + 1
        return config.sigma * jnp.float32(config.sigma_decay) ** decays

    return sigma


def _thresholding(config: Config, params: Params) -> optax.GradientTransformation:
    threshold = config.threshold
    if threshold.scope == "erdos_renyi_kernel":
        return _erdos_renyi_thresholding(config, params)

    def group(path: tuple[str, ...]) -> Hashable | None:
        if threshold.leaves and "/".join(path) not in threshold.leaves:
            return None
        return path[:-1] if threshold.scope == "layer" else "all"

    return hard_thresholding(
        sparsity=threshold.sparsity,
        every=threshold.every,
        scope=group,
        exempt_bias=threshold.exempt_bias,
        rule=threshold.rule,
    )


def _erdos_renyi_thresholding(config: Config, params: Params) -> optax.GradientTransformation:
    threshold = config.threshold
    shapes = {
        name: shape
        for name, shape in kernel_shapes(params, CONVOLUTIONS[config.policy.convolutions]).items()
        if not threshold.leaves or name in threshold.leaves
    }
    if threshold.rule != "top_k":
        raise ValueError(f"scope erdos_renyi_kernel goes with rule top_k, got {threshold.rule}")
    weights = sum(math.prod(shape) for shape in shapes.values())
    keep = erdos_renyi_kernel(shapes, num_kept(weights, threshold.sparsity))

    def group(path: tuple[str, ...]) -> Hashable | None:
        name = "/".join(path)
        return name if name in keep else None

    return hard_thresholding(keep=keep, every=threshold.every, scope=group)


def _optimizer(config: Config, params: Params) -> optax.GradientTransformation:
    """weight decay -> optimizer -> hard thresholding."""
    names = ["/".join(path) for path in flax.traverse_util.flatten_dict(params)]
    for leaf in config.threshold.leaves:
        if leaf not in names:
            raise ValueError(f"threshold.leaves: no weights {leaf!r}; {nearest(leaf, names)}")
    chosen, links = config.optimizer, []
    if chosen.weight_decay:
        links.append(optax.add_decayed_weights(chosen.weight_decay))
    try:
        links.append(optimizers()[chosen.name](chosen.learning_rate, **chosen.options))
        if config.threshold.sparsity:
            links.append(_thresholding(config, params))
        optimizer = optax.chain(*links)
        if config.threshold.sparsity and config.threshold.mask_moments:
            optimizer = masked_moments(optimizer)
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    except TypeError as error:
        raise ValueError(f"optimizer {chosen.name} cannot be used: {error}") from error
    return optimizer
