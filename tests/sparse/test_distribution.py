"""Weights by layer: the sum that was asked for, in the proportions of Erdős and Rényi."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nesht_jax.sparse.distribution import erdos_renyi_kernel

NETWORK = {"a": (4, 8, 8, 16), "b": (16, 4, 4, 32), "c": (2592, 256), "d": (256, 6)}
SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple)


def test_densities_are_proportional_to_sum_over_product():
    kept = erdos_renyi_kernel(NETWORK, 3000)
    ratios = [k / sum(NETWORK[name]) for name, k in kept.items()]
    assert max(ratios) - min(ratios) < 0.02
    assert list(kept) == list(NETWORK)


def test_a_small_layer_is_dense_and_the_others_share_what_it_leaves():
    shapes = {"wide": (100, 100), "narrow": (10, 2), "middle": (50, 50)}
    kept = erdos_renyi_kernel(shapes, 620)
    assert kept == {"wide": 400, "narrow": 20, "middle": 200}


@given(st.lists(SIZES, min_size=1, max_size=6), st.floats(0, 1))
def test_the_sum_is_what_is_asked_for_and_no_layer_exceeds_its_size(sizes, share):
    shapes = {str(i): size for i, size in enumerate(sizes)}
    total = sum(math.prod(size) for size in sizes)
    keep = max(len(sizes), round(share * total))
    try:
        kept = erdos_renyi_kernel(shapes, keep)
    except ValueError:
        assert keep < sum(map(sum, sizes))  # ε below 1: a layer's share may be below a half
        return
    assert sum(kept.values()) == min(keep, total)
    assert all(1 <= kept[name] <= math.prod(size) for name, size in shapes.items())


def test_a_layer_without_weights_is_refused():
    with pytest.raises(ValueError, match="to keep 3 weights leaves b none: lower the sparsity"):
        erdos_renyi_kernel({"a": (100, 100), "b": (1, 2)}, 3)
