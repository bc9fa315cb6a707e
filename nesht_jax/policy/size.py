"""What a policy of dense layers takes to write down: numbers, bits, and how much less than all."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

Encoding = Literal["dense", "toeplitz", "circulant", "shared", "masked", "pruned"]

FLOAT_BITS = 32


class Size(NamedTuple):
    """How large a policy is.

    Attributes:
        weights: numbers that the kernels are made of.
        floats: these and the biases.
        bits: bits of the floats and of the dictionary that says where shared or masked weights
            stand; without positions of pruned ones, as published.
        bits_with_positions: bits with these positions too.
    """

    weights: int
    floats: int
    bits: int
    bits_with_positions: int

    def compression(self, dense: "Size") -> float:
        """Computes the fraction of floats that a dense policy has beyond these."""
        return 1 - self.floats / dense.floats


def size_of(
    kernels: Sequence[tuple[int, int]],
    encoding: Encoding,
    *,
    biases: int,
    colors: int = 0,
    kept: int = 0,
) -> Size:
    """Counts numbers and bits, with e entries of all kernels, c colors and k kept entries.

    Weights are e if dense, Σ (in + out - 1) of Toeplitz kernels, Σ max(in, out) of circulant ones,
    c if shared, k if masked or pruned. A dictionary holds a color, or the number of a weight or
    none, for every entry: e ⌈log₂ c⌉ or e ⌈log₂(k + 1)⌉ bits; positions are k ⌈log₂ e⌉.

    Args:
        kernels: shape (in, out) of each kernel.
        encoding: how the weights are written down.
        biases: number of biases.
        colors: c of shared kernels.
        kept: k of masked or pruned ones.

    Raises:
        ValueError: if there is no such encoding.

    Reference: Song et al. 2021 (ES-ENAS, arXiv 2101.07415), table 2, whose 24 bit counts are these
    with one layer of 41 hidden units, 32 of pruned ones, and no biases but theirs.
    """
    if encoding not in get_args(Encoding):
        known = ", ".join(get_args(Encoding))
        raise ValueError(f"encoding must be one of {known}, got {encoding!r}")
    entries = sum(rows * columns for rows, columns in kernels)
    weights = {
        "dense": entries,
        "toeplitz": sum(rows + columns - 1 for rows, columns in kernels),
        "circulant": sum(max(shape) for shape in kernels),
        "shared": colors,
        "masked": kept,
        "pruned": kept,
    }[encoding]
    dictionary = {"shared": colors, "masked": kept + 1}.get(encoding, 1)
    bits = FLOAT_BITS * (weights + biases) + entries * _bits(dictionary)
    positions = kept * _bits(entries) if encoding == "pruned" else 0
    return Size(weights, weights + biases, bits, bits + positions)


def _bits(alternatives: int) -> int:
    return math.ceil(math.log2(max(alternatives, 1)))


def dense_twin(widths: Sequence[int], weights: int) -> tuple[int, ...]:
    """Finds the dense network that has about as many weights as a sparse one: all hidden layers
    narrower by one factor.

    Args:
        widths: sizes of inputs, hidden layers and outputs of the sparse network.
        weights: number of its living weights, biases included.

    Returns:
        Sizes of inputs, hidden layers and outputs, of the u ∈ (0, 1] whose hidden layers of
        max(1, ⌊u w⌋) units bring the number of weights, biases included, nearest to ``weights``.

    Raises:
        ValueError: if there is no hidden layer to be made narrower.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), section 3; code (rigl): widths.
    """
    first, *hidden, last = widths
    if not hidden:
        raise ValueError("a dense twin needs a hidden layer that can be narrower")
    widest = max(hidden)
    twins = (
        (first, *(max(1, width * units // widest) for width in hidden), last)
        for units in range(1, widest + 1)
    )
    return min(twins, key=lambda twin: abs(_num_weights(twin) - weights))


def _num_weights(widths: Sequence[int]) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
