"""The parts assembled: members, updates, what a failure does, and what thresholding buys."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax import (
    hard_thresholding,
    identity,
    make_evaluate,
    make_generation,
    make_policy,
    make_task,
    nesht,
)
from nesht_jax.es.nes import generation_keys
from nesht_jax.es.noise import perturbation
from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.types import Moments, Task

KEY = jax.random.key(5)
PARAMS = {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.array([0.5, -2.0])}
MEMBERS = 8


def algorithm_of(optimizer=None, *, sigma=0.1, num_members=MEMBERS, **options):
    optimizer = optimizer or optax.adam(0.1)
    return nesht(num_members=num_members, sigma=sigma, optimizer=optimizer, **options)


NES = algorithm_of()
tell_nes = jax.jit(NES.tell)


def state_of(algorithm, *, generation=3, params=PARAMS, **options):
    return algorithm.init(KEY, params, **options)._replace(generation=jnp.int32(generation))


def assert_same(a, b, check=np.testing.assert_array_equal):
    def data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    jax.tree.map(lambda x, y: check(data(x), data(y)), a, b)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


FITNESS = jnp.array([3.0, -1.0, 0.5, 8.0, 2.0, 2.0, -6.0, 1.0])


# ----------------------------------------------------------------------------------- the members


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [True, False])
def test_all_members_are_each_member_alone(mirrored):
    algorithm = algorithm_of(mirrored=mirrored)
    state = state_of(algorithm)
    together = algorithm.ask(state)
    for i in (0, 1, 6):
        assert_same(row(together, i), algorithm.member(state, i))


def test_members_2j_and_2j_plus_1_mirror_each_other():
    members = NES.ask(state_of(NES))
    for j in range(0, MEMBERS, 2):
        both = jax.tree.map(lambda x, j=j: x[j] + x[j + 1], members)
        assert_same(both, jax.tree.map(lambda p: 2 * p, PARAMS), _close)


@pytest.mark.parametrize("mirrored, direction", [(True, 2), (False, 4)])
def test_a_member_is_the_center_and_sigma_times_its_noise(mirrored, direction):
    algorithm = algorithm_of(sigma=0.3, mirrored=mirrored)
    state = state_of(algorithm)
    noise = perturbation(generation_keys(state)[0], direction, PARAMS)
    expected = jax.tree.map(lambda p, e: p + 0.3 * e, PARAMS, noise)
    assert_same(algorithm.member(state, 4), expected, _close)


def test_of_sigma_per_output_each_of_f_weights_has_its_root():
    """PARAMS has three inputs and a bias: f = 4."""
    halved, whole = algorithm_of(sigma=0.3, sigma_per="output"), algorithm_of(sigma=0.15)
    assert_same(halved.ask(state_of(halved)), whole.ask(state_of(whole)), _close)


@pytest.mark.slow
@pytest.mark.parametrize("explore", [0.0, 0.5])
def test_sigma_per_output_is_that_of_the_output_whatever_is_perturbed(explore):
    """At inputs of 1, over many members, of a layer whose support changes from output to output."""
    sparse = hard_thresholding(keep=9, explore=explore)
    algorithm = algorithm_of(
        optax.chain(optax.sgd(0.1), sparse), sigma=0.3, sigma_per="output", num_members=4096
    )
    start = {"kernel": jax.random.normal(KEY, (10, 3)), "bias": jnp.zeros(3)}
    state = algorithm.init(KEY, start)
    state, _ = jax.jit(algorithm.tell)(state, jax.random.normal(KEY, (4096,)))
    moved = jax.tree.map(
        lambda m, c: np.asarray(m) - np.asarray(c), algorithm.ask(state), state.params
    )
    outputs = moved["kernel"].sum(1) + moved["bias"]
    perturbed = (moved["kernel"][0] != 0).sum(0) + (moved["bias"][0] != 0)
    assert len(set(perturbed.tolist())) > 1 and (perturbed > 0).all()
    # the standard deviation of n / 2 independent values is known within σ / sqrt(n)
    np.testing.assert_allclose(outputs.std(0), 0.3, atol=4 * 0.3 / 64)


@pytest.mark.slow
def test_the_step_is_of_sigma_and_not_of_how_many_weights_share_it():
    per_output = algorithm_of(sigma_per="output")
    a, _ = NES.tell(state_of(NES), FITNESS)
    b, _ = per_output.tell(state_of(per_output), FITNESS)
    assert_same(a.params, b.params)


WIDE = {"kernel": jnp.arange(30.0).reshape(6, 5), "bias": jnp.array([0.5, -2.0])}


@pytest.mark.parametrize("mirrored, direction", [(True, 2), (False, 5)])
def test_a_low_rank_member_is_the_center_and_sigma_times_its_factors(mirrored, direction):
    algorithm = algorithm_of(sigma=0.3, mirrored=mirrored, rank=2)
    state = state_of(algorithm, params=WIDE)
    noise = perturbation(generation_keys(state)[0], direction, WIDE, rank=2)
    sign = -1 if mirrored else 1
    factors = noise["kernel"].a @ noise["kernel"].b.T
    member = algorithm.member(state, 5)
    _close(member["kernel"], WIDE["kernel"] + sign * 0.3 * factors)
    _close(member["bias"], WIDE["bias"] + sign * 0.3 * noise["bias"])


@pytest.mark.slow
def test_a_low_rank_member_acts_as_its_product_does():
    """The policy on the factors, under vmap, against the policy on the member multiplied out."""
    bound = np.ones(2, np.float32)
    policy = make_policy(Task("made/up", {}, 6, -bound, bound, False, None), hidden=(8,))
    algorithm = algorithm_of(rank=1)
    state = state_of(algorithm, params=policy.init(KEY))
    x = jax.random.normal(KEY, (MEMBERS, 6))

    @jax.jit
    def acts(state):
        population = algorithm.population(state)
        drawn = jax.vmap(population.draw)(jnp.arange(MEMBERS))
        assert drawn["layer0"]["kernel"].matrix is None and drawn["layer0"]["kernel"].a.ndim == 3
        lazy = jax.vmap(lambda d, x: policy.apply(population.assemble(d), None, x))(drawn, x)
        return lazy, jax.vmap(policy.apply, (0, None, 0))(algorithm.ask(state), None, x)

    _close(*acts(state))


def test_low_rank_finds_the_maximum_of_a_quadratic():
    target = 0.01 * WIDE["kernel"]
    algorithm = algorithm_of(optax.adam(0.02), num_members=32, rank=1)
    state = algorithm.init(KEY, jnp.zeros_like(target))

    def generation(state, _):
        fitness = -((algorithm.ask(state) - target[None]) ** 2).sum((1, 2))
        return algorithm.tell(state, fitness)[0], None

    state, _ = jax.jit(lambda s: jax.lax.scan(generation, s, length=300))(state)
    assert abs(state.params - target).max() < 0.05


def test_members_are_dense_though_the_center_is_sparse():
    members = NES.ask(state_of(NES, params=jax.tree.map(jnp.zeros_like, PARAMS)))
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(members))


def test_every_generation_has_its_own_members_and_keys():
    states = [state_of(NES, generation=g) for g in range(3)]
    kernels = [NES.member(state, 0)["kernel"] for state in states]
    assert all((a != b).all() for a, b in zip(kernels, kernels[1:], strict=False))
    words = [jax.random.key_data(key).tolist() for s in states for key in generation_keys(s)]
    assert len({tuple(word) for word in words}) == 6


@pytest.mark.parametrize("num_members, mirrored", [(0, False), (-2, True), (7, True)])
def test_impossible_numbers_of_members_are_refused(num_members, mirrored):
    with pytest.raises(ValueError, match="num_members"):
        algorithm_of(num_members=num_members, mirrored=mirrored)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        algorithm_of(rank=0)


# ------------------------------------------------------------------------------------ one update


@pytest.mark.parametrize("mirrored", [True, False])
def test_an_update_is_the_published_formula(mirrored):
    """θ + α/(mσ) Σ_i F_i s_i ε_i, with the noise drawn by hand."""
    algorithm = algorithm_of(optax.sgd(0.7), sigma=0.3, mirrored=mirrored, shaping=identity)
    state = state_of(algorithm)
    after, _ = jax.jit(algorithm.tell)(state, FITNESS)
    members = algorithm.ask(state)
    for name, center in PARAMS.items():
        noise = (np.float64(members[name]) - np.float64(center)) / 0.3
        step = np.einsum("m,m...->...", np.float64(FITNESS), noise) / (MEMBERS * 0.3)
        np.testing.assert_allclose(after.params[name], center + 0.7 * step, rtol=1e-4)


@pytest.mark.slow
def test_nesht_is_nes_with_one_more_transformation():
    dense, _ = tell_nes(state_of(NES), FITNESS)
    algorithm = algorithm_of(optax.chain(optax.adam(0.1), hard_thresholding(keep=3)))
    sparse, info = jax.jit(algorithm.tell)(state_of(algorithm), FITNESS)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(dense.params)])
    bar = np.sort(abs(flat))[-3]
    assert_same(sparse.params, jax.tree.map(lambda p: jnp.where(abs(p) >= bar, p, 0), dense.params))
    zeros = sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(sparse.params))
    assert info.sparsity == zeros / 8 == 5 / 8


def test_equal_fitness_leaves_the_center_where_it_is():
    state = state_of(NES)
    for _ in range(5):
        state, _ = tell_nes(state, jnp.full(MEMBERS, 0.1))
    assert_same(state.params, PARAMS)


def test_the_state_alone_decides_what_comes_next():
    """Off to the disk and back, into an algorithm made anew: the same update."""
    state, _ = tell_nes(state_of(NES), FITNESS)
    leaves, treedef = jax.tree.flatten(state._replace(key=jax.random.key_data(state.key)))
    restored = jax.tree.unflatten(treedef, [jnp.asarray(np.array(leaf)) for leaf in leaves])
    restored = restored._replace(key=jax.random.wrap_key_data(restored.key))
    anew = jax.jit(algorithm_of().tell)
    assert_same(tell_nes(state, -FITNESS), anew(restored, -FITNESS))


def test_norms_of_half_precision_are_those_of_single():
    def told(dtype):
        params = {"kernel": jnp.full((400, 400), 2, dtype)}
        algorithm = nesht(num_members=8, sigma=0.1, optimizer=optax.sgd(0.01))
        members = jnp.arange(8.0)
        return jax.jit(algorithm.tell)(algorithm.init(KEY, params), members)[1]

    half, single = told(jnp.float16), told(jnp.float32)
    for name in ("gradient_norm", "params_norm", "gradient_snr"):
        np.testing.assert_allclose(getattr(half, name), getattr(single, name), rtol=1e-2)


def test_params_of_one_number_are_trained_by_one_program():
    algorithm = nesht(num_members=8, sigma=0.1, optimizer=optax.sgd(0.1))

    def generation(state, _):
        state, info = algorithm.tell(state, -jnp.sum(algorithm.ask(state)["a"] ** 2, 1))
        return state, info.fitness_std

    scanned = jax.jit(lambda state: jax.lax.scan(generation, state, length=20))
    state, _ = scanned(algorithm.init(KEY, {"a": jnp.ones(1)}))
    assert abs(float(state.params["a"][0])) < 0.2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_an_update_keeps_every_shape_and_dtype(dtype):
    """So that a training run is a ``lax.scan``."""
    algorithm = algorithm_of(optax.chain(optax.adam(0.1), hard_thresholding(keep=3)))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    state = state_of(algorithm, params=params, moments=Moments.empty(2))
    after, _ = jax.eval_shape(algorithm.tell, state, FITNESS)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
    assert shapes[0] == shapes[1]


def test_sigma_may_be_a_schedule_from_generation_zero():
    """0.4, 0.2, 0.13, and 0.1 in generation 3: there, and only there, it is the constant 0.1."""
    scheduled = algorithm_of(sigma=lambda generation: 0.4 / (1 + generation))
    tell = jax.jit(scheduled.tell)
    for generation in (0, 3):
        state = state_of(NES, generation=generation)
        (_, info), (_, plain) = tell(state, FITNESS), tell_nes(state, FITNESS)
        ratio = 4 / (1 + generation)
        np.testing.assert_allclose(info.sigma, 0.1 * ratio, rtol=1e-6)
        np.testing.assert_allclose(info.gradient_norm * ratio, plain.gradient_norm, rtol=1e-5)
        shift, unit = (
            jax.tree.map(jnp.subtract, a.member(state, 3), PARAMS) for a in (scheduled, NES)
        )
        assert_same(shift, jax.tree.map(lambda x, r=ratio: r * x, unit), _close)


@pytest.mark.slow
def test_moments_of_the_generation_are_merged():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    halves = [Moments.of_batch(rows, jnp.arange(20) // 10 == half) for half in (0, 1)]
    state = state_of(NES, moments=Moments.empty(3))
    for half in halves:
        state, _ = tell_nes(state, FITNESS, observed=half)
    assert_same(state.moments, Moments.of_batch(rows, jnp.full(20, True)), _close)


def test_without_observations_moments_stay():
    moments = Moments.of_batch(jnp.ones((4, 3)), jnp.full(4, True))
    after, _ = tell_nes(state_of(NES, moments=moments), FITNESS)
    assert_same(after.moments, moments)


def test_moments_that_are_not_finite_are_left_out():
    moments = Moments.of_batch(jnp.ones((4, 3)), jnp.full(4, True))
    spoilt = moments._replace(mean=moments.mean.at[1].set(jnp.nan))
    after, _ = tell_nes(state_of(NES, moments=moments), FITNESS, observed=spoilt)
    assert_same(after.moments, moments)


def test_observations_that_no_policy_reads_are_not_kept():
    after, _ = jax.eval_shape(NES.tell, state_of(NES), FITNESS, observed=Moments.empty(3))
    assert after.moments is None


# ---------------------------------------------------------------------------- what goes wrong


def test_a_failed_rollout_ranks_worst_and_is_counted():
    state = state_of(NES)
    failed, info = tell_nes(state, FITNESS.at[3].set(jnp.nan))
    worst, plain = tell_nes(state, FITNESS.at[3].set(-1e9))
    assert_same(failed.params, worst.params)
    assert (info.failed, plain.failed) == (1, 0) and not info.skipped


def test_info_is_of_the_members_that_did_not_fail():
    fitness = FITNESS.at[3].set(jnp.nan).at[0].set(jnp.inf)
    _, info = tell_nes(state_of(NES), fitness)
    finite = np.delete(np.asarray(FITNESS), [0, 3])
    told = (info.fitness_mean, info.fitness_std, info.fitness_max, info.failed)
    np.testing.assert_allclose(told, (finite.mean(), finite.std(), finite.max(), 2), rtol=1e-5)


def test_when_all_fail_the_center_stays():
    after, info = tell_nes(state_of(NES), jnp.full(MEMBERS, jnp.nan))
    assert_same(after.params, PARAMS)
    assert info.failed == MEMBERS


def test_a_gradient_that_is_not_finite_is_skipped():
    optimizer = optax.chain(optax.adam(0.1), hard_thresholding(keep=3))
    algorithm = algorithm_of(optimizer, sigma=0.01, shaping=identity)
    tell = jax.jit(algorithm.tell)
    before, _ = tell(state_of(algorithm), FITNESS)
    after, info = tell(before, jnp.float32(1e38) * jnp.sign(FITNESS))
    assert_same(after, before._replace(generation=before.generation + 1))
    assert info.skipped and info.failed == 0
    assert not tell(after, FITNESS)[1].skipped


def test_norms_in_info_are_those_of_the_update():
    algorithm = algorithm_of(optax.sgd(1.0))
    state = state_of(algorithm)
    after, info = jax.jit(algorithm.tell)(state, FITNESS)
    step = jax.tree.map(jnp.subtract, after.params, state.params)
    np.testing.assert_allclose(info.gradient_norm, optax.tree.norm(step), rtol=1e-4)
    np.testing.assert_allclose(info.params_norm, optax.tree.norm(after.params), rtol=1e-6)


# ------------------------------------------------------------------------------- whole searches

TARGET = jnp.array([2.0, 0.0, -1.5, 0.0, 0.0, 0.5])


def searched(optimizer, *, fitness_of, generations=200, **options):
    """The center after a search from zero."""
    algorithm = algorithm_of(optimizer, num_members=32, **options)

    def generation(state, _):
        return algorithm.tell(state, jax.vmap(fitness_of)(algorithm.ask(state)))[0], None

    start = algorithm.init(KEY, jnp.zeros(6))
    return jax.jit(lambda s: jax.lax.scan(generation, s, length=generations)[0])(start).params


@pytest.mark.parametrize("mirrored", [True, False])
def test_it_finds_the_maximum_of_a_quadratic(mirrored):
    """An asymmetric optimum: who minimises, or flips a sign, runs away from it."""
    decayed = optax.adam(optax.exponential_decay(0.1, 50, 0.3))
    found = searched(decayed, fitness_of=lambda x: -jnp.sum((x - TARGET) ** 2), mirrored=mirrored)
    np.testing.assert_allclose(found, TARGET, atol=0.1)


def test_nesht_finds_a_sparse_maximum_and_its_zeros_are_exact():
    optimizer = optax.chain(optax.adam(0.1), hard_thresholding(keep=3))
    found = searched(optimizer, fitness_of=lambda x: -jnp.sum((x - TARGET) ** 2))
    assert ((found == 0) == (TARGET == 0)).all()


# --------------------------------------------------------------------------------- runs on a probe


def probe_run(*, distractors, num_members, generations, traces=None, **options):
    """A whole training run, a function of its key and of k: the public MuJoCo settings."""
    task = make_task("probe/linear", distractors=distractors)
    policy = make_policy(task, **options)
    evaluate = make_evaluate(task, policy, num_members=num_members, common_random_numbers=True)

    def run(key, keep):
        if traces is not None:
            traces.append(keep)
        init_key, run_key = jax.random.split(key)
        optimizer = optax.chain(optax.adam(0.1), hard_thresholding(keep=keep))
        algorithm = algorithm_of(optimizer, num_members=num_members)
        moments = Moments.empty(task.num_features) if policy.uses_moments else None
        state = algorithm.init(run_key, policy.init(init_key), moments=moments)
        generation = make_generation(algorithm, evaluate)
        return jax.lax.scan(lambda s, _: generation(s), state, length=generations)

    return run


def swept(run):
    """Over keys and, inside, over k."""
    return jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))


short_run = partial(
    probe_run, distractors=1, num_members=6, generations=4, normalize=by_running_moments()
)
single_run = jax.jit(short_run())


@pytest.mark.slow
def test_a_sweep_over_seeds_and_k_is_the_single_runs_and_one_trace():
    traces = []
    sweep, keys = swept(short_run(traces=traces)), jax.random.split(KEY, 4)
    sweep(keys[:2], jnp.array([2, 5]))
    state, info = sweep(keys[2:], jnp.array([3, 6]))
    assert len(traces) == 1
    for s, i in np.ndindex(2, 2):
        alone, alone_info = single_run(keys[2 + s], jnp.int32([3, 6][i]))
        assert_same(row(state.params, (s, i)), alone.params, _close)
        assert_same(row(state.moments, (s, i)), alone.moments, _close)
        assert_same(row(info, (s, i)), alone_info, _close)


@pytest.mark.slow
def test_a_generation_counts_its_steps_and_gathers_what_its_policies_saw():
    state, info = single_run(KEY, jnp.int32(5))
    assert info.steps.tolist() == info.simulated_steps.tolist() == [6 * 10] * 4
    assert state.moments.number == 4 * 6 * 10 and state.generation == 4


def supports(kernel):
    """Which of the inputs are the five largest in magnitude: [..., o] bool."""
    magnitude = abs(np.asarray(kernel)[..., 0])
    return magnitude >= np.sort(magnitude)[..., -5, None]


@pytest.mark.slow
def test_nesht_recovers_the_true_inputs_and_nes_does_not():
    """5 true inputs and 50 of noise, five seeds, both from the same settings and keys.

    The learning rate and σ are those of the published MuJoCo code. NES's own walk, at this rate,
    is larger than the answer; with a smaller rate NES finds it too.
    """
    keep_all = 5 * (1 + 10) + 1
    run = swept(probe_run(distractors=10, num_members=32, generations=400))
    state, _ = run(jax.random.split(KEY, 5), jnp.array([5, keep_all]))
    true_inputs = np.arange(55) < 5
    exact = (supports(state.params["layer0"]["kernel"]) == true_inputs).all(-1)
    assert exact[:, 0].all(), "NESHT"
    assert not exact[:, 1].any(), "the 5 largest of NES"


def _close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)
