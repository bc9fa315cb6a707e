"""A population in shares is the population, on any number of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax import make_evaluate, make_mesh, make_policy, make_task, nesht, shared, shared_noise
from nesht_jax.es import gradient
from nesht_jax.shares import sum_across, tree_sum
from nesht_jax.types import Population, replicate

SCRIPT = Path(__file__).with_name("several_devices.py")


def on_devices(number, *what):
    """What the script finds, compiled as users do, on so many devices; this process has one."""
    flags = f"--xla_force_host_platform_device_count={number}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *what], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    return on_devices(8, "sums", "compiled", "compilations", "sharded")


# ------------------------------------------------------------------------------ on eight devices


@pytest.mark.slow
def test_the_sum_over_devices_has_the_bits_of_the_tree(found):
    assert len(found["sums"]) == 12
    assert all(found["sums"].values())


@pytest.mark.slow
def test_the_work_of_a_device_falls_with_their_number(found):
    flops = {int(n): told["flops"] for n, told in found["compiled"]["devices"].items()}
    for devices in (2, 4, 8):
        assert flops[devices] < 1.15 * flops[1] / devices


@pytest.mark.slow
def test_between_devices_go_fitness_moments_and_one_vector(found):
    told = found["compiled"]
    for name, one in told["devices"].items():
        devices = int(name)
        d = -(-told["d"] // devices) * devices
        of_members, of_shares = 2 * told["members"], devices * (1 + 2 * told["features"] + 1)
        assert one["bytes"]["all-gather"] <= 4 * (of_members + of_shares + d)
        assert one["bytes"].get("collective-permute", 0) == 4 * d * (devices - 1) // devices
        assert set(one["bytes"]) <= {"all-gather", "collective-permute"}


@pytest.mark.slow
def test_no_device_waits_for_another_within_an_episode(found):
    for one in found["compiled"]["devices"].values():
        assert one["loops"] > 0
        assert one["in_loops"] == []
    assert len(found["compiled"]["control"]) == 1  # where there is one, it is found


@pytest.mark.slow
def test_a_run_takes_a_share_for_each_device_and_compiles_once(found):
    assert found["compilations"]["shares"] == 8
    first, *_, before_the_last, _ = found["compilations"]["compiled"]
    assert first == before_the_last > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["weight", "row", "explore", "support"])
def test_weights_and_moments_may_lie_in_parts_and_only_counts_are_moved(found, case):
    told = found["sharded"][case]
    assert told["same"]
    assert told["whole"] == 0
    assert {*told["bytes"]} == {"all-reduce"}
    assert told["bytes"]["all-reduce"] < 400


@pytest.mark.slow
def test_any_number_of_devices_comes_to_the_same_bits():
    states = on_devices(8, "states")["states"]
    assert len({states[f"probe/linear {n}"] for n in (1, 2, 4, 8)}) == 1
    assert states["brax/hopper 2"] == states["brax/hopper 8"]


@pytest.mark.slow
def test_so_do_sparse_methods_and_searches():
    two, eight = (on_devices(number, "methods")["methods"] for number in (2, 8))
    assert two == eight and len({*two.values()}) == 5


# --------------------------------------------------------------------------------- on this device


def two_ways(shares, *, num_members=16, rank=None, mirrored=True):
    """A generation's evaluation and gradient: in shares, and as they are without."""
    task = make_task("probe/linear", distractors=1, horizon=7)
    policy = make_policy(task, hidden=(5,))
    mesh = make_mesh(shares)
    params = policy.init(jax.random.key(1))
    rules = {"num_members": num_members, "sigma": 0.1, "rank": rank, "mirrored": mirrored}
    algorithm = nesht(**rules, optimizer=optax.sgd(1.0))
    state = algorithm.init(jax.random.key(0), params)
    parts = make_evaluate(task, policy, num_members=num_members // shares)
    in_shares = shared(parts, mesh=mesh, num_members=num_members, shares=shares)
    whole = make_evaluate(task, policy, num_members=num_members)
    key, population = jax.random.key(2), algorithm.population(state)
    evaluations = [jax.jit(e)(key, population, None) for e in (in_shares, whole)]
    summed = nesht(**rules, optimizer=optax.sgd(1.0), sum_noise=shared_noise(mesh, shares))
    fitness = jnp.arange(num_members, dtype=jnp.float32) ** 1.5
    updates = [a.tell(state, fitness)[0].params for a in (summed, algorithm)]
    return evaluations, updates


@pytest.mark.slow
@pytest.mark.parametrize("shares", [1, 2, 4, 8])
def test_shares_play_what_the_whole_plays(shares):
    (in_shares, whole), _ = two_ways(shares)
    np.testing.assert_allclose(in_shares.fitness, whole.fitness, rtol=1e-5)
    np.testing.assert_array_equal(in_shares.steps, whole.steps)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("shares", [2, 8])
def test_the_gradient_in_shares_is_the_gradient(shares, mirrored, rank):
    _, updates = two_ways(shares, rank=rank, mirrored=mirrored)
    for ours, plain in zip(*map(jax.tree.leaves, updates), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.slow
def test_moments_of_shares_are_those_of_all_observations():
    task = make_task("probe/linear", horizon=7)
    policy = make_policy(task)._replace(uses_moments=True)
    population, key = replicate(policy.init(jax.random.key(0))), jax.random.key(2)
    mesh, empty = make_mesh(4), None
    parts = make_evaluate(task, policy, num_members=2)
    ours = shared(parts, mesh=mesh, num_members=8, shares=4)(key, population, empty).observed
    plain = make_evaluate(task, policy, num_members=8)(key, population, empty).observed
    assert float(ours.number) == float(plain.number) == 56
    np.testing.assert_allclose(ours.mean, plain.mean, atol=1e-6)
    np.testing.assert_allclose(ours.deviation, plain.deviation, rtol=1e-5)


def test_a_share_has_the_members_and_the_places_of_the_whole():
    population = Population(jax.tree_util.Partial(lambda i: 10 * i))
    share = population.share(4).share(2)
    assert share(3) == 90
    assert share.first == 6


def test_noise_may_begin_anywhere():
    def noise(j):
        return jnp.float32(j) * jnp.ones(3)

    weights = jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(gradient.weighted_noise(noise, weights, first=5), 17.0)


@pytest.mark.parametrize("v", [1, 2, 8])
def test_the_tree_adds_neighbors_first(v):
    parts = [np.float32(10.0) ** -i for i in range(v)]
    assert tree_sum(jnp.array(parts)) == by_halves(parts)


def by_halves(parts):
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return by_halves(parts[:middle]) + by_halves(parts[middle:])


def test_one_device_has_nobody_to_add_to():
    mesh = make_mesh(1)
    spec = jax.sharding.PartitionSpec()
    alone = jax.shard_map(
        lambda x: sum_across(x, 1), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    np.testing.assert_array_equal(alone(jnp.arange(5.0)), jnp.arange(5.0))


@pytest.mark.parametrize("shares", [0, 3, 12, -2])
def test_shares_are_a_power_of_two(shares):
    with pytest.raises(ValueError, match=f"power of two, got {shares}"):
        make_mesh(shares)


def test_what_is_not_cut_evenly_is_refused():
    mesh = make_mesh(4)
    task = make_task("probe/linear")
    played = make_evaluate(task, make_policy(task), num_members=2)
    with pytest.raises(ValueError, match="10 members are not cut into 4 shares"):
        shared(played, mesh=mesh, num_members=10, shares=4)
    with pytest.raises(ValueError, match="6 directions are not cut into 4 shares"):
        shared_noise(mesh, 4)(lambda j: jnp.ones(2), jnp.ones(6))
