"""How many weights each layer keeps, where they do not compete with those of other layers."""

import math
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every kernel by name, as ``types.Layer.shape`` tells it."""


def erdos_renyi_kernel(shapes: Shapes, keep: int) -> dict[str, int]:
    """Computes k_l = min(d_l, ε Σ_i n_i) of each kernel l of n_0 × n_1 × … = d_l weights.

    ε is such that Σ_l k_l = k; where that leaves fractions, the layers that would lose most by
    rounding down keep one weight more. Small layers are left denser than large ones.

    Args:
        shapes: shape of every kernel by name.
        keep: k, the number of weights kept over all kernels.

    Returns:
        k_l, the number of weights kept of each kernel, by name, in the order of ``shapes``.

    Raises:
        ValueError: if k is too small to leave every kernel a weight.

    Reference: Evci et al. 2020 (RigL, arXiv 1911.11134), section 3 (1); of matrices alone Mocanu
    et al. 2018.
    """
    dense: dict[str, int] = {}
    while True:
        rest = {name: shape for name, shape in shapes.items() if name not in dense}
        if not rest:
            return dense
        epsilon = (keep - sum(dense.values())) / sum(map(sum, rest.values()))
        # what a dense kernel cannot use, the others share; that may make another one dense
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
