"""The optimizer of a config: weight decay, any optimizer of optax, and what keeps params sparse."""

import inspect
import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from nesht_jax.envs.catalog import nearest
from nesht_jax.es.clipup import clipup
from nesht_jax.policy.structure import GATE
from nesht_jax.run.config import Config
from nesht_jax.run.sections import OptimizerConfig, SparsityConfig
from nesht_jax.sparse.distribution import erdos_renyi_kernel, kernel_shapes, uniform
from nesht_jax.sparse.hard_thresholding import masked_moments, sparsify
from nesht_jax.sparse.projection import Projection, make_projection
from nesht_jax.sparse.rewiring import magnitude_pruning, rigl, set_, static
from nesht_jax.sparse.selection import selection
from nesht_jax.sparse.top_k import num_kept
from nesht_jax.sparse.units import make_units
from nesht_jax.types import Layer, Params, Task

LEAST_POWER = 0.3
"""Standard deviations by which a weight that matters should stand out where some are zeroed."""


def build_projection(
    chosen: SparsityConfig,
    layers: tuple[Layer, ...],
    params: Params,
    values: Mapping[str, Array] | None = None,
) -> Projection | None:
    """Makes the operator that makes params sparse; None if all weights are kept.

    Args:
        chosen: what keeps the policy sparse.
        layers: layers of the policy.
        params: params of the policy.
        values: traced values in place of those of the config, by the names of their options.

    Raises:
        ValueError: if a layer is named that the policy does not have.
    """
    if not chosen.thresholds:
        return None
    chosen, chosen_layers = _taking_part(chosen, layers)
    if chosen.scope == "erdos_renyi_kernel":
        if not chosen_layers:
            raise ValueError("scope erdos_renyi_kernel needs a policy that tells of its layers")
        shapes = {layer.kernel: layer.shape for layer in chosen_layers}
        weights = sum(layer.fan_in * layer.fan_out for layer in chosen_layers)
        keep = erdos_renyi_kernel(shapes, num_kept(weights, chosen.fraction))
        return make_projection(keep=keep, scope=_kernel_group(keep))
    by_count, traced = chosen.keep is not None, values or {}
    return make_projection(
        sparsity=None if by_count else traced.get("sparsity.fraction", chosen.fraction),
        keep=traced.get("sparsity.keep", chosen.keep),
        unit=chosen.unit,
        scope=_layer_group(chosen, chosen_layers),
        exempt_bias=chosen.exempt_bias,
        rule=chosen.rule,
        channels=_channels(layers),
    )


def build_selection(
    chosen: SparsityConfig, layers: tuple[Layer, ...]
) -> optax.GradientTransformationExtraArgs:
    """Makes the transformation that selects what lives."""
    return selection(
        level=chosen.level,
        every=chosen.every,
        begin=chosen.begin,
        end=chosen.end,
        explore=chosen.explore,
        scope=_layer_group(*_taking_part(chosen, layers)),
        exempt_bias=chosen.exempt_bias,
        unit=chosen.unit,
        channels=_channels(layers),
    )


def num_selected_from(chosen: SparsityConfig, layers: tuple[Layer, ...], params: Params) -> int:
    """Counts the weights of which some are selected."""
    scope = _layer_group(*_taking_part(chosen, layers))
    units = make_units(unit=chosen.unit, scope=scope, exempt_bias=chosen.exempt_bias)
    return units.num_weights(params)


def _taking_part(
    chosen: SparsityConfig, layers: tuple[Layer, ...]
) -> tuple[SparsityConfig, tuple[Layer, ...]]:
    """Which layers take part: of inputs, and of what is selected, the first unless others are
    named."""
    if (chosen.unit == "row" or chosen.selects) and not chosen.layers:
        if not layers:
            what = "unit row" if chosen.unit == "row" else "method selection"
            raise ValueError(f"sparsity.{what} needs a policy that tells of its layers")
        chosen = replace(chosen, layers=("first",))
    return chosen, _layers_named(chosen, layers)


def _layers_named(chosen: SparsityConfig, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers that take part, all if none is named."""
    if not chosen.layers:
        return layers
    named = {layer.name: layer for layer in layers}
    if layers:
        named |= {"first": layers[0], "last": layers[-1]}
    for name in chosen.layers:
        if name not in named:
            hint = nearest(name, named) if named else "the policy does not tell of its layers"
            raise ValueError(f"sparsity.layers: no layer {name!r}; {hint}")
    return tuple(named[name] for name in chosen.layers)


def _layer_group(
    chosen: SparsityConfig, layers: tuple[Layer, ...]
) -> Callable[[tuple[str, ...]], Hashable | None]:
    """Path of a leaf -> the leaves that it competes with; None if it takes no part."""
    own_paths = {tuple(layer.kernel.split("/"))[:-1] for layer in layers}

    def group(path: tuple[str, ...]) -> Hashable | None:
        if path[-1] == GATE or (chosen.layers and path[:-1] not in own_paths):
            return None
        return path[:-1] if chosen.scope == "layer" else "all"

    return group


def _channels(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Input channels of the kernels that are filters, by path."""
    return {layer.kernel: layer.shape[0] for layer in layers if layer.kind == "convolution"}


def _kernel_group(keep: dict[str, int]) -> Callable[[tuple[str, ...]], Hashable | None]:
    def group(path: tuple[str, ...]) -> Hashable | None:
        name = "/".join(path)
        return name if name in keep else None

    return group


def check_kept(config: Config, task: Task, projection: Projection, params: Params) -> None:
    """Warns where so few weights are kept that some action cannot depend on the observation."""
    lives = jax.tree.leaves(projection.mask(params))
    kept, total = sum(int(leaf.sum()) for leaf in lives), sum(leaf.size for leaf in lives)
    if kept < task.num_actions and config.sparsity.keep is None:
        enough = max(0.0, 1 - task.num_actions / total)
        warnings.warn(
            f"sparsity.fraction {config.sparsity.fraction:g} keeps {kept} of {total} weights for "
            f"{task.num_actions} actions of {task.name}: at most {enough:.2g} leaves one for each",
            stacklevel=2,
        )


def check_power(config: Config, weights: int) -> None:
    """Warns where decisions know too little to tell weights that matter from chance.

    In a linear F without noise, n directions in each of E updates move a weight that matters by
    some z = √(n E / d) of the standard deviations that chance moves it.
    """
    chosen, members = config.sparsity, config.algorithm.num_members
    directions = members // 2 if config.algorithm.mirrored else members
    if chosen.selects:  # all decisions judge by what was gathered from the first update on
        updates, remedy = min(chosen.end or config.last_generation, config.last_generation), "end"
    else:
        updates = max(chosen.begin, chosen.every)
        remedy = "begin" if chosen.explore < 1 else "every"
    tried = directions * updates
    if tried < LEAST_POWER**2 * weights:
        warnings.warn(
            f"{tried:,} directions are tried before it is decided which of {weights:,} weights "
            "live, so that mostly chance tells: take more members or a larger "
            f"sparsity.{remedy}, or sparsity.method none",
            stacklevel=2,
        )


def optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Lists the optimizers of the installed optax, and ``clipup``, by name."""
    of_optax = {
        name: make
        for name, make in vars(optax).items()
        if name.islower()
        and inspect.isfunction(make)
        and next(iter(inspect.signature(make).parameters), None) == "learning_rate"
    }
    return of_optax | {"clipup": clipup}


def build_optimizer(
    config: Config,
    layers: tuple[Layer, ...],
    projection: Projection | None,
    params: Params,
    *,
    key: Key[Array, ""],
    values: Mapping[str, Array] | None = None,
) -> optax.GradientTransformation:
    """Chains weight decay -> optimizer -> sparsity; a method with masks goes around the first two.

    Args:
        config: config of the run.
        layers: layers of the policy.
        projection: what thresholds params; None if nothing does.
        params: params of the policy.
        key: key of the masks.
        values: see ``build_projection``.

    Raises:
        ValueError: if optax has no such optimizer or option, or the chain cannot be used.
    """
    chosen = config.optimizer
    check_optimizer(chosen)
    learning_rate = (values or {}).get("optimizer.learning_rate", chosen.learning_rate)
    parts = [optax.add_decayed_weights(chosen.weight_decay)] if chosen.weight_decay else []
    try:
        parts.append(optimizers()[chosen.name](learning_rate, **chosen.options))
        if projection is not None:
            sparsity = config.sparsity
            parts.append(
                sparsify(
                    projection,
                    every=sparsity.every,
                    begin=sparsity.begin,
                    end=sparsity.end,
                    explore=sparsity.explore,
                )
            )
        optimizer = optax.chain(*parts)
        if config.sparsity.selects:
            optimizer = optax.chain(optimizer, build_selection(config.sparsity, layers))
        if config.sparsity.cuts and config.sparsity.has_masks:
            optimizer = with_masks(optimizer, config.sparsity, layers, params, key)
        if projection is not None and config.sparsity.forget_moments:
            optimizer = masked_moments(optimizer)
        jax.eval_shape(lambda p: _one_step(optimizer, p), params)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"optimizer {chosen.name} cannot be used: {error}") from error
    return optimizer


def with_masks(
    optimizer: optax.GradientTransformation,
    chosen: SparsityConfig,
    layers: tuple[Layer, ...],
    params: Params,
    key: Key[Array, ""],
) -> optax.GradientTransformation:
    """Wraps an optimizer in the method of sparse training that is chosen."""
    keep, living_only = num_living(chosen, layers, params), chosen.explore == 0
    common = {"keep": keep, "living_only": living_only}
    times = {"every": chosen.every, "begin": chosen.begin, "end": chosen.end}
    if chosen.method == "static":
        return static(optimizer, key=key, **common)
    if chosen.method == "pruning":
        return magnitude_pruning(optimizer, **common, **times)
    make = {"set": set_, "rigl": rigl}[chosen.method]
    return make(optimizer, key=key, drop=chosen.drop, **common, **times)


def num_living(
    chosen: SparsityConfig, layers: tuple[Layer, ...], params: Params
) -> int | dict[str, int]:
    """Computes how many weights a method with masks lets live, over all kernels or of each.

    Raises:
        ValueError: if a layer is named that the policy does not have, or one is left no weight.
    """
    everything = kernel_shapes(params)
    shapes = {layer.kernel: layer.shape for layer in _layers_named(chosen, layers)} or everything
    total = sum(map(math.prod, shapes.values()))
    number = num_kept(total, chosen.fraction) if chosen.keep is None else min(chosen.keep, total)
    if chosen.scope == "erdos_renyi_kernel":
        return erdos_renyi_kernel(shapes, number)
    if chosen.scope == "layer":
        return uniform(shapes, number)
    if len(shapes) == len(everything):
        return number
    if len(shapes) > 1:
        raise ValueError("sparsity.layers: some of several layers cannot share scope all")
    return dict.fromkeys(shapes, number)


def _one_step(optimizer: optax.GradientTransformation, params: Params) -> Params:
    update = optax.with_extra_args_support(optimizer).update
    return update(
        params, optimizer.init(params), params, value=jnp.float32(0), key=jax.random.key(0)
    )


def check_optimizer(chosen: OptimizerConfig) -> None:
    """Refuses an optimizer that optax does not have, or an option that it does not take."""
    known = optimizers()
    if chosen.name not in known:
        raise ValueError(
            f"optimizer.name: there is no optimizer {chosen.name!r}; {nearest(chosen.name, known)}"
        )
    valid = [p for p in inspect.signature(known[chosen.name]).parameters if p != "learning_rate"]
    for option in chosen.options:
        if option not in valid:
            raise ValueError(
                f"optimizer.options: {chosen.name} has no {option!r}; {nearest(option, valid)}"
            )
