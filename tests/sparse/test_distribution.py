"""Weights by layer and by network: the sum that was asked for, in the published proportions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nesht_jax.policy.size import dense_twin
from nesht_jax.run.optimizer import build_projection, num_living
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.sparse.distribution import erdos_renyi_kernel, kernel_shapes, split, uniform
from nesht_jax.sparse.top_k import num_kept
from nesht_jax.types import Layer

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


def test_kernels_come_in_the_order_that_they_were_given_in():
    assert list(erdos_renyi_kernel({"a": (10, 10), "b": (1, 1)}, 101)) == ["a", "b"]
    assert list(erdos_renyi_kernel({"a": (10, 10), "b": (1, 1)}, 50)) == ["a", "b"]


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


def mlp(*widths):
    sizes = zip(widths[:-1], widths[1:], strict=True)
    return {f"layer{i}/kernel": shape for i, shape in enumerate(sizes)}


def published(shapes, sparsity):
    """Weights kept by ``get_all_sparsities`` of rigl: one layer after another becomes dense."""
    dense = set()
    while True:
        given, wanted = 0.0, 0.0
        for name, shape in shapes.items():
            size = math.prod(shape)
            if name in dense:
                wanted -= size * sparsity
            else:
                wanted += size * (1 - sparsity)
                given += size * (sum(shape) / size)
        epsilon = wanted / given
        raw = {n: sum(s) / math.prod(s) for n, s in shapes.items() if n not in dense}
        if not raw or max(raw.values()) * epsilon <= 1:
            break
        dense.add(max(raw, key=raw.get))
    sparsities = {n: 0.0 if n in dense else 1 - epsilon * raw[n] for n in shapes}
    return {n: math.prod(s) - math.floor(sparsities[n] * math.prod(s)) for n, s in shapes.items()}


NETWORKS = {
    "dqn cartpole": mlp(4, 512, 512, 2),
    "dqn acrobot": mlp(6, 512, 512, 3),
    "dqn mountain car": mlp(2, 512, 512, 3),
    "sac actor": mlp(17, 256, 256, 12),
    "sac critic": mlp(23, 256, 256, 1),
    "ppo actor": mlp(17, 64, 64, 6),
    "ppo value": mlp(17, 64, 64, 1),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_it_is_the_published_distribution_within_two_weights_a_layer(network, sparsity):
    shapes = NETWORKS[network]
    total = sum(map(math.prod, shapes.values()))
    kept = erdos_renyi_kernel(shapes, total - math.floor(sparsity * total))
    theirs = published(shapes, sparsity)
    assert all(abs(kept[name] - theirs[name]) <= 2 for name in shapes), (kept, theirs)


def test_numbers_of_the_networks_of_the_source():
    table = {
        ("dqn cartpole", 0.9): (2048, 23450, 1024),
        ("sac actor", 0.9): (1892, 3547, 1857),
        ("sac critic", 0.95): (1174, 2154, 256),
        ("ppo value", 0.8): (382, 604, 64),
    }
    for (network, sparsity), expected in table.items():
        total = sum(map(math.prod, NETWORKS[network].values()))
        kept = erdos_renyi_kernel(NETWORKS[network], total - math.floor(sparsity * total))
        assert all(abs(a - b) <= 2 for a, b in zip(kept.values(), expected, strict=True)), kept


@given(st.lists(SIZES, min_size=1, max_size=6), st.floats(0, 1))
def test_uniform_gives_every_layer_its_share_within_one_weight(sizes, share):
    shapes = {str(i): size for i, size in enumerate(sizes)}
    total = sum(math.prod(size) for size in sizes)
    keep = max(1, round(share * total))
    try:
        kept = uniform(shapes, keep)
    except ValueError as error:
        assert "none: lower the sparsity" in str(error)
        return
    assert sum(kept.values()) == keep
    for name, shape in shapes.items():
        assert abs(kept[name] - keep * math.prod(shape) / total) < 1 + 1e-6


def test_a_split_at_equal_sparsities_is_that_of_the_source():
    """Of SAC on HalfCheetah 34 to 66 per cent."""
    actor, critic = NETWORKS["sac actor"], NETWORKS["sac critic"]
    sizes = [sum(map(math.prod, shapes.values())) for shapes in (actor, critic)]
    share = sizes[0] / (sizes[0] + 2 * sizes[1])
    assert 0.33 < share < 0.345
    of_actor, of_critic = split(actor, critic, keep=21_000, actor_share=share)
    assert of_actor + 2 * of_critic in (20_999, 21_000)
    assert of_actor / sizes[0] == pytest.approx(of_critic / sizes[1], rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_a_network_nothing_is_refused(share):
    with pytest.raises(ValueError, match=r"actor_share must be inside \(0, 1\)"):
        split({"a": (2, 2)}, {"b": (2, 2)}, keep=4, actor_share=share)


def test_a_share_beyond_a_network_is_refused():
    with pytest.raises(ValueError, match="gives the actor 90, which has 10"):
        split({"a": (5, 2)}, {"b": (50, 2)}, keep=100, actor_share=0.9)


def test_kernels_are_leaves_of_two_dimensions_or_more():
    params = {"layer0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "scale": np.ones(4)}
    assert kernel_shapes(params) == {"layer0/kernel": (3, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hard_threshold", "set"])
def test_filters_keep_what_their_four_dimensions_say(method):
    """Whatever shape params hold them in: a matrix would make 4·8·8 of them one."""
    shapes = {"layer0/kernel": (4, 8, 8, 16), "layer1/kernel": (16, 4, 4, 32)}
    shapes |= {"layer2/kernel": (512, 10)}
    matrices = {name: (math.prod(shape[:-1]), shape[-1]) for name, shape in shapes.items()}
    params = {name.split("/")[0]: {"kernel": jnp.ones(shape)} for name, shape in matrices.items()}
    kinds = ("convolution", "convolution", "dense")
    layers = tuple(
        Layer(name.split("/")[0], kind, name, shape, "observation")
        for kind, (name, shape) in zip(kinds, shapes.items(), strict=True)
    )
    chosen = SparsityConfig(method=method, scope="erdos_renyi_kernel", fraction=0.9)
    total = sum(map(math.prod, shapes.values()))
    expected = erdos_renyi_kernel(shapes, num_kept(total, 0.9))
    assert expected != erdos_renyi_kernel(matrices, num_kept(total, 0.9))
    if method == "set":
        kept = num_living(chosen, layers, params)
    else:
        projection = build_projection(chosen, layers, params)
        assert projection is not None
        mask = projection.mask(params)
        kept = {f"{name}/kernel": int(part["kernel"].sum()) for name, part in mask.items()}
    assert kept == expected


@pytest.mark.parametrize(
    ("widths", "sparse", "hidden"),
    [
        ((4, 512, 512, 2), 26_522 + 1_026, 162),
        ((4, 512, 512, 2), 13_261 + 1_026, 116),
        ((6, 512, 512, 3), 26_676 + 1_027, 161),
        ((17, 256, 256, 12), 7_296 + 524, 74),
        ((17, 64, 64, 1), 525 + 129, 17),
    ],
)
def test_a_dense_twin_has_as_many_weights_as_the_sparse_network(widths, sparse, hidden):
    first, *_, last = widths
    assert dense_twin(widths, sparse) == (first, hidden, hidden, last)


def test_without_hidden_layers_there_is_no_twin():
    with pytest.raises(ValueError, match="needs a hidden layer"):
        dense_twin((4, 2), 3)
