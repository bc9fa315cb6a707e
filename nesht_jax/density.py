"""How many weights each layer may keep, when they do not compete with those of other layers."""

import math
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]
"""Of every kernel by name: (in, out) of a matrix, (channels, size, size, features) of filters."""


def erdos_renyi_kernel(shapes: Shapes, keep: int) -> dict[str, int]:
    """k_l = min(d_l, ε Σ_i n_i) for a kernel l of n_0 × n_1 × … = d_l weights, so that Σ_l k_l = k.

    Small layers are left denser than large ones. ε makes the sum what is asked for; fractions go to
    the layers that lose most by rounding.

    Args:
        shapes: of the kernels.
        keep: k, over all of them.

    Raises:
        ValueError: if k is too small to leave every layer a weight.

    Reference: Evci et al. 2020 (RigL, arXiv 1911.11134), section 3 (1); of matrices alone Mocanu
    et al. 2018.
    """
    dense: dict[str, int] = {}
    while True:
        rest = {name: shape for name, shape in shapes.items() if name not in dense}
        if not rest:
            return dense
        epsilon = (keep - sum(dense.values())) / sum(map(sum, rest.values()))
        full = {n: math.prod(s) for n, s in rest.items() if epsilon * sum(s) >= math.prod(s)}
        if not full:
            break
        dense |= full
    shares = {name: epsilon * sum(shape) for name, shape in rest.items()}
    kept = {name: math.floor(share) for name, share in shares.items()}
    missing = keep - sum(dense.values()) - sum(kept.values())
    for name in sorted(shares, key=lambda name: kept[name] - shares[name])[:missing]:
        kept[name] += 1
    if empty := [name for name, k in kept.items() if k == 0]:
        raise ValueError(f"to keep {keep} weights leaves {empty[0]} none: lower the sparsity")
    return {name: (dense | kept)[name] for name in shapes}
