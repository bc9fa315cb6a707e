"""Kernels made of fewer numbers: Toeplitz, circulant, shared, pruned, masked.

What a search moves, θ, is then less than what a policy takes. ``materialize`` makes the policy's
params of θ and of an architecture, a dictionary with any of

* ``colors`` [e]: which shared weight each of the e entries of the kernels is;
* ``edges`` [k]: which entries live, by number; ``mask`` [e]: whether each does, 0 or 1;
* ``activations`` [u]: which function each hidden unit has, by its number in ``ACTIVATIONS``.

The entries of all kernels are numbered together, first layer first, each row by row [in, out].
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from nesht_jax.policy.activation import CHOICE
from nesht_jax.types import Layer, Params

Kernel = Literal["dense", "toeplitz", "circulant", "shared", "masked"]

SHARPNESS = 0.01
"""α of a masked kernel W · sigmoid(Γ/α), near 0 or 1 for most Γ."""


COLORS, DIAGONALS, GATE = "colors", "diagonals", "gate"
"""Names of the leaves of θ that are no leaves of a policy's params."""


class Structure(NamedTuple):
    """How the params of a policy are made of fewer numbers.

    Attributes:
        init: (key, params of the policy) -> θ, which begins as they do, as far as it can.
        materialize: (architecture, θ) -> params of the policy.
        living: (architecture, θ, mask of θ) -> whether each weight of the policy lives; without
            leaves that hold no weights.
        edges: (architecture, θ) -> whether each entry of the kernels lives, if all of θ does.
        num_edges: e, entries of all kernels.
        num_units: u, hidden units.
    """

    init: Callable[[Key[Array, ""], Params], Params]
    materialize: Callable[[Mapping[str, Array], Params], Params]
    living: Callable[[Mapping[str, Array], Params, Params], Params]
    edges: Callable[[Mapping[str, Array], Params], Bool[Array, " e"]]
    num_edges: int
    num_units: int


def make_structure(
    layers: tuple[Layer, ...], kernel: Kernel = "dense", *, colors: int | None = None
) -> Structure:
    """Makes the structure of a dense policy.

    Args:
        layers: what the policy tells of its layers, first to last.
        kernel: how kernels W [in, out] are made. ``"dense"``: as they are. ``"toeplitz"``:
            W_ij = v_(j - i + in - 1), one number a diagonal. ``"circulant"``: W_ij = v_((j - i) mod
            n), n = max(in, out). ``"shared"``: every entry of all kernels is one of c numbers,
            which one the architecture says. ``"masked"``: W · sigmoid(Γ/α) with Γ in θ, and
            ``living`` calls an entry dead where Γ ≤ 0, though up to half of its W is played.
        colors: c of shared kernels.

    Raises:
        ValueError: if there is no such kernel, a layer is not dense, or c is not in 1 ... e.

    Reference: Song et al. 2021 (ES-ENAS, arXiv 2101.07415), section 4.1 and appendix C.5.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}")
    if not layers or any(layer.kind != "dense" for layer in layers):
        raise ValueError("structured kernels and searches are for policies of dense layers alone")
    sizes = [layer.fan_in * layer.fan_out for layer in layers]
    e = sum(sizes)
    if kernel == "shared" and (colors is None or not 1 <= colors <= e):
        raise ValueError(f"shared kernels of {e} entries must have 1 to {e} colors, got {colors}")
    tables = {layer.name: _diagonals(kernel, layer.shape) for layer in layers}
    ends = np.cumsum(sizes)[:-1].tolist()

    def split(flat: Array) -> list[Array]:
        parts = jnp.split(flat, ends)
        return [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)]

    def gathered(architecture: Mapping[str, Array], tree: Any) -> list[Array]:
        """The kernels of a pytree like θ: of weights, or of its mask."""
        if kernel == "shared":
            return split(tree[COLORS][architecture["colors"]])
        if kernel in ("toeplitz", "circulant"):
            return [tree[layer.name][DIAGONALS][tables[layer.name]] for layer in layers]
        return [tree[layer.name]["kernel"] for layer in layers]

    def lives(architecture: Mapping[str, Array]) -> list[Array] | None:
        if "mask" in architecture:
            return split(architecture["mask"] == 1)
        if "edges" in architecture:
            return split(jnp.zeros(e, bool).at[architecture["edges"]].set(True))
        return None

    def with_kernels(tree: Any, kernels: list[Array]) -> dict[str, Any]:
        made = {name: part for name, part in tree.items() if name != COLORS}
        for layer, values in zip(layers, kernels, strict=True):
            own = made[layer.name].items()
            rest = {name: leaf for name, leaf in own if name not in (DIAGONALS, GATE)}
            made[layer.name] = {**rest, "kernel": values}
        return made

    def init(key: Key[Array, ""], params: Params) -> Params:
        theta = {name: part for name, part in params.items() if CHOICE not in part}
        for number, layer in enumerate(layers):
            own = dict(theta[layer.name])
            values = own.pop("kernel")
            if kernel == "dense":
                continue
            if kernel == "masked":
                gates = jax.random.normal(jax.random.fold_in(key, number), layer.shape, jnp.float32)
                own |= {"kernel": values, GATE: gates}
            elif kernel != "shared":
                table = tables[layer.name]
                places = np.unique(table, return_index=True)[1]
                own[DIAGONALS] = values.ravel()[places]
            theta[layer.name] = own
        if kernel == "shared":
            theta[COLORS] = jnp.resize(params[layers[0].name]["kernel"], (colors,))
        return theta

    def materialize(architecture: Mapping[str, Array], theta: Params) -> Params:
        kernels = gathered(architecture, theta)
        if kernel == "masked":
            gates = [jax.nn.sigmoid(theta[layer.name][GATE] / SHARPNESS) for layer in layers]
            kernels = [values * gate for values, gate in zip(kernels, gates, strict=True)]
        alive = lives(architecture)
        if alive is not None:
            kernels = [jnp.where(a, k, 0) for a, k in zip(alive, kernels, strict=True)]
        made = with_kernels(theta, kernels)
        if "activations" in architecture:
            units = np.cumsum([layer.fan_out for layer in layers[:-1]])[:-1].tolist()
            for number, part in enumerate(jnp.split(architecture["activations"], units)):
                made[f"activation{number}"] = {CHOICE: part}
        return made

    def living(architecture: Mapping[str, Array], theta: Params, mask: Params) -> Params:
        kernels = gathered(architecture, mask)
        if kernel == "masked":
            gates = [theta[layer.name][GATE] > 0 for layer in layers]
            kernels = [values & gate for values, gate in zip(kernels, gates, strict=True)]
        alive = lives(architecture)
        if alive is not None:
            kernels = [a & k for a, k in zip(alive, kernels, strict=True)]
        return with_kernels(mask, kernels)

    def edges(architecture: Mapping[str, Array], theta: Params) -> Bool[Array, " e"]:
        mask = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), theta)
        made = living(architecture, theta, mask)
        return jnp.concatenate([made[layer.name]["kernel"].ravel() for layer in layers])

    units = sum(layer.fan_out for layer in layers[:-1])
    return Structure(init, materialize, living, edges, e, units)


def _diagonals(kernel: Kernel, shape: tuple[int, ...]) -> Int[np.ndarray, "in out"]:
    """Which number each entry of a Toeplitz or circulant kernel is."""
    i, j = np.indices(shape)
    return (j - i) % max(shape) if kernel == "circulant" else j - i + shape[0] - 1
