"""Atari in the envpool suite, against plain loops over the same pool."""

import hashlib
import importlib

import jax
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from nesht_jax.envs.host import uniform_bytes
from nesht_jax.envs.tasks import (
    make_evaluate,
    make_task,
    make_vector,
    reference_observations,
    task_names,
)
from nesht_jax.policy.convolution import CONVOLUTIONS, Convolution
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Population, replicate

envpool = pytest.importorskip("envpool", reason="envpool has no wheel for this platform")
registry = importlib.import_module("envpool.registration").registry
suite = importlib.import_module("nesht_jax.envs.envpool")

KEY = jax.random.key(0)
GAMES = ["Atlantis", "BattleZone", "Breakout", "Pong", "Qbert", "Skiing", "Venture", "Zaxxon"]
RAM = {"observation": "ram"}
MEMBERS = 4


def game(name="Pong", **rules):
    return make_task(f"envpool/{name}-v5", **rules)


def population_of(policy):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), MEMBERS))
    return stacked, Population(Partial(lambda x, i: jax.tree.map(lambda x: x[i], x), stacked))


def pool_seeds(seed, count):
    return (np.random.SeedSequence(seed).generate_state(count) >> 1).tolist()


def plain_returns(name, stacked, *, scale, horizon, **options):
    """The obvious loop on the bytes of the memory: every game alone, until the game says so."""
    kernel, bias = (np.asarray(stacked["layer0"][part]) for part in ("kernel", "bias"))
    totals, lengths = [], []
    for i, seed in enumerate(pool_seeds(5, MEMBERS)):
        pool = envpool.make(name, env_type="gymnasium", num_envs=1, seed=[seed], **options)
        _, info = pool.reset()
        total, length, over = 0.0, 0, False
        while not over:
            seen = info["ram"][0].astype(np.float32) * np.float32(scale)
            action = np.argmax(seen @ kernel[i] + bias[i])
            _, reward, _, _, info = pool.step(np.array([action]))
            total, length = total + float(reward[0]), length + 1
            over = bool(info["terminated"][0]) or length == horizon
        totals.append(total)
        lengths.append(length)
    return np.array(totals), np.array(lengths)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, scaled, horizon",
    [
        ("Breakout", False, 400),
        ("Pong", True, 60),
        ("Qbert", True, 400),
    ],
)
def test_equals_one_game_at_a_time(name, scaled, horizon):
    task = game(name, horizon=horizon, options={**RAM, "scaled": scaled})
    policy = make_policy(task)
    stacked, population = population_of(policy)
    played = make_evaluate(task, policy, num_members=MEMBERS, seed=5)(KEY, population, None)
    scale = 1 / 255 if scaled else 1
    returns, lengths = plain_returns(f"{name}-v5", stacked, scale=scale, horizon=horizon)
    np.testing.assert_array_equal(played.steps, lengths)
    np.testing.assert_allclose(played.fitness, returns)


def test_an_episode_ends_with_the_game_and_not_with_a_life(monkeypatch):
    """Breakout has five lives; whoever only serves loses them all."""
    lives, make = [], envpool.make

    def watched(*arguments, **options):
        pool = make(*arguments, **options)
        recv = pool.recv

        def watch(*arguments, **options):
            after = recv(*arguments, **options)
            lives.extend(after[-1]["lives"].tolist())
            return after

        pool.recv = watch
        return pool

    monkeypatch.setattr(envpool, "make", watched)
    task = game("Breakout", options=RAM)
    policy = make_policy(task)
    params = jax.tree.map(np.zeros_like, policy.init(KEY))
    params["layer0"]["bias"] = np.float32([0, 1, 0, 0])  # the second action is to serve
    played = make_evaluate(task, policy, num_members=1)(KEY, replicate(params), None)
    assert set(lives) == {0, 1, 2, 3, 4, 5}
    assert lives.index(0) == int(played.steps[0])  # the first are those of the reset


@pytest.mark.slow
def test_seek_is_the_call_that_would_have_been_where_steps_are_random():
    """Actions that are repeated at random draw from the emulator's random state in every step."""
    task = game("Breakout", horizon=300, options={**RAM, "repeat_action_probability": 0.5})
    policy = make_policy(task, output="sample")
    population = replicate(policy.init(KEY))
    through, jumped = (make_evaluate(task, policy, num_members=4, seed=2) for _ in range(2))
    keys = jax.random.split(KEY, 2)
    results = [through(key, population, None) for key in keys]
    assert (np.asarray(results[0].steps) != np.asarray(results[1].steps)).any()
    for call in (1, 0):
        jumped.seek(call)
        again = jumped(keys[call], population, None)
        np.testing.assert_array_equal(results[call].fitness, again.fitness)
        np.testing.assert_array_equal(results[call].steps, again.steps)


def shown(name, options, *, distractors=0, horizon=3):
    """What the policy is shown, [step, env, o], where the third action is always played."""
    seen = []

    def watch(policy, task, action_noise, scale):
        def act(assemble, moments, drawn, batch, action_normals, observed, counted):
            seen.append(np.array(batch))
            return np.tile(np.eye(task.num_actions, dtype=np.float32)[2], (len(batch), 1)), None

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "batched_act", watch)
        task = game(name, distractors=distractors, horizon=horizon, options=options)
        policy = make_policy(task)
        evaluate = make_evaluate(task, policy, num_members=2, seed=5)
        evaluate(KEY, replicate(policy.init(KEY)), None)
    return np.array(seen).reshape(horizon, 2, -1)


@pytest.mark.slow
def test_the_policy_is_shown_the_frames_of_the_pool():
    seen = shown("Pong", {"noop_max": 5})
    for slot, seed in enumerate(pool_seeds(5, 2)):
        pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=1, seed=[seed], noop_max=5)
        frames, _ = pool.reset()
        for step in range(3):
            np.testing.assert_array_equal(seen[step, slot].reshape(4, 84, 84), frames[0])
            frames, *_ = pool.step(np.array([2]))
    assert seen.dtype == np.uint8


@pytest.mark.parametrize(
    "name, options, digest",
    [
        ("Pong", {}, "81c17bb9fc865c3c"),
        (
            "Breakout",
            {"frame_skip": 1, "repeat_action_probability": 0.25},
            "615b5bfd0b81a594",
        ),
        ("Pong", RAM, "3c4d3975f311f05f"),
    ],
)
def test_a_golden_record_of_what_is_shown(name, options, digest):
    """The same seed and actions give the same bytes: preprocessing is part of a result."""
    seen = shown(name, options, horizon=40)
    assert hashlib.sha256(seen.tobytes()).hexdigest()[:16] == digest


@pytest.mark.slow
def test_distractors_are_as_many_uniform_bytes_again():
    seen = shown("Pong", {}, distractors=2, horizon=8)
    size = 4 * 84 * 84
    assert seen.shape == (8, 2, 3 * size)
    np.testing.assert_array_equal(seen[..., :size], shown("Pong", {}, horizon=8))
    noise = seen[..., size:]
    counts = np.bincount(noise.ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    vectors = noise.reshape(16, -1).astype(np.float64)
    correlations = np.corrcoef(vectors)[np.triu_indices(16, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2 * size)


def test_bytes_do_not_know_their_neighbours():
    drawn = uniform_bytes(np.random.SFC64(2), (200_001,)).astype(np.float64)
    for lag in (1, 2, 7, 8):
        assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 5 / np.sqrt(drawn.size)


@pytest.mark.slow
def test_a_convolutional_policy_plays():
    task = game(horizon=12)
    policy = make_policy(task, convolutions=CONVOLUTIONS["dqn2013"])
    _, population = population_of(policy)
    played = make_evaluate(task, policy, num_members=MEMBERS)(KEY, population, None)
    assert (np.asarray(played.steps) == 12).all()


def test_every_game_is_listed_and_the_nearest_is_named():
    listed = task_names("envpool")
    assert {f"envpool/{game}-v5" for game in GAMES} <= set(listed)
    of_atari = [name for name, (module, *_) in registry.specs.items() if module == "envpool.atari"]
    assert len(of_atari) > 100 and {f"envpool/{name}" for name in of_atari} <= set(listed)
    with pytest.raises(ValueError, match="envpool/Breakout-v5"):
        game("Brekout")


@pytest.mark.parametrize(
    "options, size, actions",
    [
        ({}, 4 * 84 * 84, 6),
        (RAM, 128, 6),
        ({"full_action_space": True}, 4 * 84 * 84, 18),
        ({"stack_num": 2, "img_height": 64}, 2 * 64 * 84, 6),
        ({"gray_scale": False}, 12 * 84 * 84, 6),
    ],
)
def test_options_change_the_sizes(options, size, actions):
    task = game(options=options)
    assert (task.observation_size, task.num_actions, task.horizon) == (size, actions, 27_000)
    assert task.discrete and task.frame_skip == 4
    assert task.image_shape is None or np.prod(task.image_shape) == size


@pytest.mark.slow
def test_a_border_of_noise_lies_around_the_frames():
    options = {"noop_max": 5}
    plain = shown("Pong", options).reshape(3, 2, 4, 84, 84)
    seen = shown("Pong", {"border": 6, **options}).reshape(3, 2, 4, 96, 96)
    np.testing.assert_array_equal(seen[..., 6:-6, 6:-6], plain)
    around = np.ones((96, 96), bool)
    around[6:-6, 6:-6] = False
    assert stats.chisquare(np.bincount(seen[..., around].ravel(), minlength=256)).pvalue > 1e-3
    assert game(options={"border": 6}).image_shape == (4, 96, 96)


@pytest.mark.slow
def test_pixel_noise_is_gaussian_in_whole_numbers_and_cut():
    """Independent at every pixel and step; bytes far from their bounds show its deviation."""
    plain = shown("Pong", {}, horizon=8).astype(int)
    seen = shown("Pong", {"pixel_noise": 10.0}, horizon=8).astype(int)
    inside = (plain > 60) & (plain < 195)
    noise = (seen - plain)[inside]
    assert noise.size > 10_000
    expected = np.sqrt(10.0**2 + 1 / 12)  # rounded
    assert abs(noise.std() - expected) < 5 * expected / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)
    flooded = shown("Pong", {"pixel_noise": 1e5}, horizon=8)
    assert abs((flooded == 0).mean() - 0.5) < 0.01 and abs((flooded == 255).mean() - 0.5) < 0.01
    first, second = ((seen - plain)[step][inside[0] & inside[1]] for step in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_reference_observations_are_the_first_steps_of_random_actions():
    options = {"frame_skip": 2}
    task = game(distractors=1, options=options)
    made, again = (reference_observations(task, number=40, seed=3) for _ in range(2))
    np.testing.assert_array_equal(made, again)
    size = 4 * 84 * 84
    assert made.shape == (40, 2 * size) and made.dtype == np.float32
    assert made.min() >= 0 and 0.9 < made.max() <= 1
    pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=1, seed=3, frame_skip=2)
    np.testing.assert_allclose(made[0, :size], pool.reset()[0].ravel() / 255, rtol=1e-6)
    assert len(np.unique(made[:, :size], axis=0)) > 30  # the game goes on


@pytest.mark.slow
def test_virtual_batch_normalization_plays_and_each_member_has_its_own():
    task = game(horizon=12)
    reference = reference_observations(task, number=8, seed=0)
    policy = make_policy(task, convolutions=(Convolution(4, 8, 4),), reference=reference)
    _, population = population_of(policy)
    played = make_evaluate(task, policy, num_members=MEMBERS)(KEY, population, None)
    assert (np.asarray(played.steps) == 12).all()
    _, statistics = jax.vmap(policy.prepare(population).draw)(np.arange(MEMBERS))
    means = statistics["norm0"]["mean"]
    assert means.shape == (MEMBERS, 4) and len(np.unique(means[:, 0])) == MEMBERS


@pytest.mark.parametrize(
    "options", [{}, {"border": 3, "pixel_noise": 5.0}, {**RAM, "scaled": False}]
)
def test_a_vector_shows_what_a_policy_sees(options):
    task = game("Breakout", options=options)
    vector = make_vector(task, num_envs=2, seed=5)
    rows = vector.reset(np.arange(2))
    assert rows.shape == (2, task.observation_size) and rows.dtype == np.float32
    shown = rows * (1 if options.get("scaled") is False else 255)
    np.testing.assert_allclose(shown, np.rint(shown), atol=1e-4)
    for i, seed in enumerate(pool_seeds(5, 2)):
        pool = envpool.make("Breakout-v5", env_type="gymnasium", num_envs=1, seed=[seed])
        frames, info = pool.reset()
        if "border" not in options:
            expected = info["ram"][0] if "observation" in options else frames[0].ravel()
            np.testing.assert_allclose(shown[i], expected, atol=1e-4)
    for _ in range(3):
        step = vector.step(np.float32([[0, 1, 0, 0]]), np.arange(1))
        assert step.observation.shape == (1, task.observation_size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"border": 4, **RAM}, "border and pixel_noise are for frames, but Pong-v5 shows its"),
        ({"border": 1.5}, "border must be a number of pixels, at least 0, got 1.5"),
        ({"border": True}, "number of pixels, at least 0, got True"),
        ({"border": -1}, "number of pixels, at least 0, got -1"),
        ({"pixel_noise": -1.0}, "pixel_noise must be a number, at least 0, got -1.0"),
        ({"pixel_noise": "x"}, "pixel_noise must be a number, at least 0, got 'x'"),
        ({"pixel_noise": float("nan")}, "pixel_noise must be a number, at least 0, got nan"),
        ({"frameskip": 2}, "frame_skip"),
        ({"episodic_life": True}, "no option 'episodic_life'"),
        ({"observation": "sound"}, "pixels or ram, got observation: sound"),
        ({"scaled": 255}, "true or false, got 255"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        game(options=options)


def test_a_cap_below_the_no_op_start_is_refused():
    task = game(horizon=7, options=RAM)
    with pytest.raises(ValueError, match="horizon of 7 steps.*at least 8"):
        make_evaluate(task, make_policy(task), num_members=2)
