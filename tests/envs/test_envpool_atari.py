"""Atari in the envpool room, against plain loops over the same pool."""

import hashlib
import importlib

import jax
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from nesht_jax import make_evaluate, make_policy, task_names, task_spec
from nesht_jax.contract import Members, alike
from nesht_jax.envs import reference_observations
from nesht_jax.envs.host import uniform_bytes
from nesht_jax.network import CONVOLUTIONS
from nesht_jax.normalize import none

envpool = pytest.importorskip("envpool", reason="envpool has wheels for Linux only")
registry = importlib.import_module("envpool.registration").registry
room = importlib.import_module("nesht_jax.envs.envpool")

KEY = jax.random.key(0)
GAMES = ["Atlantis", "BattleZone", "Breakout", "Pong", "Qbert", "Skiing", "Venture", "Zaxxon"]
RAM = {"observation": "ram"}
MEMBERS = 4


def policy_of(task, options, *, noise=0, **network):
    spec = task_spec(task, options)
    features = spec.observation_size * (1 + noise)
    bounds = spec.action_low, spec.action_high
    return make_policy(features, *bounds, output="clip", normalizer=none(), **network)


def members(policy):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), MEMBERS))
    own = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    return stacked, Members(own)


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


@pytest.mark.parametrize(
    "name, scaled, horizon",
    [
        ("Breakout-v5", False, 400),
        ("Pong-v5", True, 60),
        pytest.param("Qbert-v5", True, 400, marks=pytest.mark.slow),
    ],
)
def test_equals_one_game_at_a_time(name, scaled, horizon):
    options = {**RAM, "scaled": scaled}
    policy = policy_of(f"envpool/{name}", options)
    stacked, member = members(policy)
    evaluate = make_evaluate(
        f"envpool/{name}", policy, num_members=MEMBERS, seed=5, horizon=horizon, options=options
    )
    played = evaluate(KEY, member, None)
    scale = 1 / 255 if scaled else 1
    returns, lengths = plain_returns(name, stacked, scale=scale, horizon=horizon)
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
    task = "envpool/Breakout-v5"
    policy = policy_of(task, RAM)
    params = jax.tree.map(np.zeros_like, policy.init(KEY))
    params["layer0"]["bias"] = np.float32([0, 1, 0, 0])  # the second action is to serve
    played = make_evaluate(task, policy, num_members=1, options=RAM)(KEY, alike(params), None)
    assert set(lives) == {0, 1, 2, 3, 4, 5}
    assert lives.index(0) == int(played.steps[0])  # the first are those of the reset


def shown(task, options, *, noise=0, horizon=3):
    """What the policy is shown, [step, env, o], and the actions it must have taken."""
    seen = []

    def watch(policy, task, action_noise, scale):
        def act(params, moments, own, batch, jitter, observed, counted):
            seen.append(np.array(batch))
            return np.tile(np.eye(len(task.action_low), dtype=np.float32)[2], (len(batch), 1)), None

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "batched_act", watch)
        policy = policy_of(task, options, noise=noise)
        evaluate = make_evaluate(
            task, policy, num_members=2, seed=5, noise=noise, horizon=horizon, options=options
        )
        evaluate(KEY, alike(policy.init(KEY)), None)
    return np.array(seen).reshape(horizon, 2, -1)


def test_the_policy_is_shown_the_frames_of_the_pool():
    seen = shown("envpool/Pong-v5", {"noop_max": 5})
    for slot, seed in enumerate(pool_seeds(5, 2)):
        pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=1, seed=[seed], noop_max=5)
        frames, _ = pool.reset()
        for step in range(3):
            np.testing.assert_array_equal(seen[step, slot].reshape(4, 84, 84), frames[0])
            frames, *_ = pool.step(np.array([2]))
    assert seen.dtype == np.uint8


@pytest.mark.parametrize(
    "task, options, digest",
    [
        ("envpool/Pong-v5", {}, "81c17bb9fc865c3c"),
        (
            "envpool/Breakout-v5",
            {"frame_skip": 1, "repeat_action_probability": 0.25},
            "615b5bfd0b81a594",
        ),
        ("envpool/Pong-v5", RAM, "3c4d3975f311f05f"),
    ],
)
def test_a_golden_record_of_what_is_shown(task, options, digest):
    """The same seed and actions give the same bytes: preprocessing is part of a result."""
    seen = shown(task, options, horizon=40)
    assert hashlib.sha256(seen.tobytes()).hexdigest()[:16] == digest


def test_noise_is_as_many_uniform_bytes_again():
    seen = shown("envpool/Pong-v5", {}, noise=2, horizon=8)
    size = 4 * 84 * 84
    assert seen.shape == (8, 2, 3 * size)
    np.testing.assert_array_equal(seen[..., :size], shown("envpool/Pong-v5", {}, horizon=8))
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


def test_a_convolutional_policy_plays():
    spec = task_spec("envpool/Pong-v5")
    policy = policy_of(
        "envpool/Pong-v5", {}, convolutions=CONVOLUTIONS["dqn2013"], frames=spec.frames
    )
    _, member = members(policy)
    played = make_evaluate("envpool/Pong-v5", policy, num_members=MEMBERS, horizon=12)(
        KEY, member, None
    )
    assert (np.asarray(played.steps) == 12).all()


def test_every_game_is_listed_and_the_nearest_is_named():
    listed = task_names("envpool")
    assert {f"envpool/{game}-v5" for game in GAMES} <= set(listed)
    of_atari = [name for name, (module, *_) in registry.specs.items() if module == "envpool.atari"]
    assert len(of_atari) > 100 and {f"envpool/{name}" for name in of_atari} <= set(listed)
    with pytest.raises(ValueError, match="envpool/Breakout-v5"):
        task_spec("envpool/Brekout-v5")


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
    spec = task_spec("envpool/Pong-v5", options)
    assert (spec.observation_size, len(spec.action_low), spec.horizon) == (size, actions, 27_000)
    assert spec.frames is None or np.prod(spec.frames) == size


def test_a_border_of_noise_lies_around_the_frames():
    options = {"noop_max": 5}
    plain = shown("envpool/Pong-v5", options).reshape(3, 2, 4, 84, 84)
    seen = shown("envpool/Pong-v5", {"border": 6, **options}).reshape(3, 2, 4, 96, 96)
    np.testing.assert_array_equal(seen[..., 6:-6, 6:-6], plain)
    around = np.ones((96, 96), bool)
    around[6:-6, 6:-6] = False
    assert stats.chisquare(np.bincount(seen[..., around].ravel(), minlength=256)).pvalue > 1e-3
    assert task_spec("envpool/Pong-v5", {"border": 6}).frames == (4, 96, 96)


def test_pixel_noise_is_gaussian_in_whole_numbers_and_cut():
    """Independent at every pixel and step; bytes far from their bounds show its deviation."""
    plain = shown("envpool/Pong-v5", {}, horizon=8).astype(int)
    seen = shown("envpool/Pong-v5", {"pixel_noise": 10.0}, horizon=8).astype(int)
    inside = (plain > 60) & (plain < 195)
    noise = (seen - plain)[inside]
    assert noise.size > 10_000
    expected = np.sqrt(10.0**2 + 1 / 12)  # rounded
    assert abs(noise.std() - expected) < 5 * expected / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)
    flooded = shown("envpool/Pong-v5", {"pixel_noise": 1e5}, horizon=8)
    assert abs((flooded == 0).mean() - 0.5) < 0.01 and abs((flooded == 255).mean() - 0.5) < 0.01
    first, second = ((seen - plain)[step][inside[0] & inside[1]] for step in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_reference_observations_are_the_first_steps_of_random_actions():
    options = {"frame_skip": 2}
    made = reference_observations("envpool/Pong-v5", number=40, noise=1, seed=3, options=options)
    again = reference_observations("envpool/Pong-v5", number=40, noise=1, seed=3, options=options)
    np.testing.assert_array_equal(made, again)
    size = 4 * 84 * 84
    assert made.shape == (40, 2 * size) and made.dtype == np.float32
    assert made.min() >= 0 and 0.9 < made.max() <= 1
    pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=1, seed=3, frame_skip=2)
    np.testing.assert_allclose(made[0, :size], pool.reset()[0].ravel() / 255, rtol=1e-6)
    assert len(np.unique(made[:, :size], axis=0)) > 30  # the game goes on


def test_only_envpool_has_reference_observations():
    with pytest.raises(ValueError, match="in envpool only, not of probe/linear"):
        reference_observations("probe/linear", number=2, noise=0, seed=0)


def test_virtual_batch_normalisation_plays_and_each_member_has_its_own():
    spec, task = task_spec("envpool/Pong-v5"), "envpool/Pong-v5"
    reference = reference_observations(task, number=8, noise=0, seed=0)
    policy = policy_of(
        task, {}, convolutions=CONVOLUTIONS["dqn2013"], frames=spec.frames, reference=reference
    )
    _, member = members(policy)
    played = make_evaluate(task, policy, num_members=MEMBERS, horizon=12)(KEY, member, None)
    assert (np.asarray(played.steps) == 12).all()
    _, statistics = jax.vmap(policy.prepare(member).own)(np.arange(MEMBERS))
    means = statistics["norm0"]["mean"]
    assert means.shape == (MEMBERS, 16) and len(np.unique(means[:, 0])) == MEMBERS


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
        task_spec("envpool/Pong-v5", options)


def test_a_cap_below_the_no_op_start_is_refused():
    policy = policy_of("envpool/Pong-v5", RAM)
    with pytest.raises(ValueError, match="horizon of 7 steps.*at least 8"):
        make_evaluate("envpool/Pong-v5", policy, num_members=2, horizon=7, options=RAM)
