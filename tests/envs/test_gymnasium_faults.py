"""What environments of others do, and what it may cost: an episode, never a run."""

import importlib

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax.envs.gymnasium.spaces import action_map
from nesht_jax.envs.host import random_play
from nesht_jax.envs.suite import SimulatorError
from nesht_jax.envs.tasks import make_evaluate, make_task, make_vector, reference_observations
from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Moments, Policy, replicate

bug_tasks = importlib.import_module("bug_tasks")

KEY = jax.random.key(7)
QUIET = {"disable_env_checker": True}
"""Without Gymnasium's own warnings, which are errors here."""


def bug(name, *, options=None, **rules):
    return make_task(f"gymnasium/bug_tasks:bug/{name}-v0", options=QUIET | (options or {}), **rules)


def constant(task, action=None, uses_moments=True):
    """A policy that always says the same, whatever it sees, as one without weights on it."""
    said = np.zeros(task.num_actions, np.float32) if action is None else np.float32(action)
    return Policy(
        init=lambda key: {"bias": jnp.asarray(said)},
        apply=lambda params, moments, observation: params["bias"],
        uses_moments=uses_moments,
    )


def play(task, policy=None, *, num_members=12, key=KEY, **rules):
    policy = policy or constant(task)
    evaluate = make_evaluate(task, policy, num_members=num_members, **rules)
    params = replicate(policy.init(jax.random.key(0)))
    played = evaluate(key, params, Moments.empty(task.num_features))
    evaluate.close()
    return played


# ------------------------------------------------------------------ numbers that are not finite


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_envs", [1, 5])
def test_an_observation_that_is_not_finite_costs_its_own_episode(monkeypatch, broken, num_envs):
    """It is shown after five steps, in which nothing was wrong; the others play on."""
    monkeypatch.setattr(bug_tasks.HalfBlind, "broken", broken)
    played = play(bug("HalfBlind"), num_members=16, num_envs=num_envs)
    fitness, steps = np.asarray(played.fitness), np.asarray(played.steps)
    failed = np.isnan(fitness)
    assert 0 < failed.sum() < 16
    assert (steps == np.where(failed, 5, 20)).all()
    assert (fitness[~failed] == 20).all()
    assert int(played.simulated_steps) == steps.sum()
    assert int(played.observed.number) == steps.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(played.observed))


@pytest.mark.parametrize("paid", [np.nan, np.inf, -np.inf, None])
def test_a_reward_that_is_not_finite_costs_its_own_episode(monkeypatch, paid):
    monkeypatch.setattr(bug_tasks.HalfPriceless, "paid", paid)
    played = play(bug("HalfPriceless"), num_members=16, num_envs=5)
    failed = np.isnan(np.asarray(played.fitness))
    assert 0 < failed.sum() < 16
    assert (np.asarray(played.steps) == np.where(failed, 5, 20)).all()
    assert (np.asarray(played.fitness)[~failed] == 20).all()
    assert int(played.observed.number) == int(played.steps.sum())


def test_a_member_fails_with_one_of_its_episodes(monkeypatch):
    played = play(bug("HalfPriceless"), num_members=8, episodes_per_member=6)
    one_by_one = play(bug("HalfPriceless"), num_members=48)
    failed = np.isnan(np.asarray(one_by_one.fitness)).reshape(8, 6).any(1)
    np.testing.assert_array_equal(np.isnan(np.asarray(played.fitness)), failed)


def test_what_float32_cannot_hold_is_not_finite():
    """Without a warning of NumPy's, which would be an error here."""
    played = play(bug("Huge"), num_members=3)
    assert np.isnan(np.asarray(played.fitness)).all() and (np.asarray(played.steps) == 3).all()
    assert np.isfinite(np.asarray(played.observed.mean)).all()


@pytest.mark.parametrize("paid", [1e38, 1e300])
def test_a_return_that_float32_cannot_hold_has_failed(monkeypatch, paid):
    monkeypatch.setattr(bug_tasks.Plain, "reward", lambda self, action: paid)
    assert np.isnan(np.asarray(play(bug("Plain"), num_members=2).fitness)).all()


def test_what_is_shown_at_the_end_is_not_acted_on():
    played = play(bug("DarkEnd"), num_members=3)
    assert (np.asarray(played.fitness) == 20).all() and (np.asarray(played.steps) == 20).all()


@pytest.mark.parametrize("name", ["Plain", "HalfBlind"])
def test_an_action_that_is_not_a_number_is_not_played(name):
    task = bug(name)
    played = play(task, constant(task, np.full(task.num_actions, np.nan)), num_members=2)
    assert np.isnan(np.asarray(played.fitness)).all() and not np.asarray(played.steps).any()
    assert int(played.observed.number) == 0


# -------------------------------------------------------------------------------------- options


def test_options_of_any_yaml_type_reach_the_environment_unchanged():
    options = {
        "config": {"lanes": [1, 2], "deep": {"pay": None}},
        "limits": [0.5, 2.0],
        "label": None,
        "ticks": True,
    }
    task = bug("Configured", options=options)
    env = task.simulator._spare[0].unwrapped
    assert env.given == (options["config"], [0.5, 2.0], None, True)
    assert task.options == QUIET | options


def test_a_range_reaches_mujoco():
    task = make_task("gymnasium/Hopper-v5", options={"healthy_z_range": [0.7, 2.0]})
    assert task.simulator._spare[0].unwrapped._healthy_z_range == [0.7, 2.0]


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("options", "paid"), [({}, 0), ({"reset_options": {"goal": 3}}, 60)])
def test_reset_options_reach_the_reset_and_none_is_the_default(mode, options, paid):
    task = bug("Options", options={"vectorization_mode": mode, **options})
    assert (np.asarray(play(task, num_members=2, num_envs=2).fitness) == paid).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Plain", {"max_episode_steps": 3}, "no option 'max_episode_steps': set horizon"),
        ("Plain", {"num_envs": 3}, "no option 'num_envs': set num_envs beside"),
        ("Plain", {"scaled": 1}, "scaled must be true or false, got 1"),
        ("Plain", {"reset_options": [1]}, r"reset_options must be a map, got \[1\]"),
        ("Mission", {"keys": "image"}, "keys must be a list of parts, got 'image'"),
        ("Mission", {"keys": ["imag"]}, "bug/Mission-v0 cannot be made.*imag"),
        ("Mission", {}, r"which `mission`: Sequence\(.*\) has not; .* keys: \[image, joints\], or"),
    ],
)
def test_bad_options_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        bug(name, options=options)


# -------------------------------------------------------------------------------------- actions


def test_no_action_leaves_finite_bounds():
    """Whatever the policy says: the environment asserts that it contains what it is given."""
    task = bug("ZeroToOne")
    for said in (-5.0, 0.3, 1.0001, np.inf):
        bug_tasks.Logged.log.clear()
        played = play(task, constant(task, [said, said]), num_members=2)
        assert (np.asarray(played.fitness) == 20).all()
        np.testing.assert_array_equal(bug_tasks.Logged.log, np.float32(np.clip(said, 0, 1)))


def test_scale_reaches_all_of_the_bounds():
    task = bug("ZeroToTen")
    policy = make_policy(task)
    for bias, reached in ((-9.0, 0), (0.0, 5), (9.0, 10)):
        bug_tasks.Logged.log.clear()
        params = jax.tree.map(jnp.zeros_like, policy.init(KEY))
        params["layer0"]["bias"] += bias
        evaluate = make_evaluate(task, policy, num_members=2)
        evaluate(KEY, replicate(params), None)
        np.testing.assert_array_equal(bug_tasks.Logged.log, reached)


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-3, 3), (5, 6), (-128, 127)])
def test_every_whole_number_is_equally_wide(low, high):
    space = gymnasium.spaces.Box(low, high, (1,), np.int16)
    said = np.random.default_rng(0).uniform(low, high, (200_000, 1)).astype(np.float32)
    played = np.concatenate(action_map(space)(said))
    assert played.dtype == np.int16
    counts = np.bincount(played - low, minlength=high - low + 1)
    assert len(counts) == high - low + 1 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-3, 3), (0, 2**20), (7, 7)])
def test_a_whole_number_is_itself_and_bounds_hold(low, high):
    space = gymnasium.spaces.Box(low, high, (1,), np.int64)
    step = max(1, (high - low) // 1000)
    whole = np.arange(low, high + 1, step)
    said = whole[:, None].astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(action_map(space)(said)), whole)
    outside = np.array([[low - 5.0], [high + 5.0], [-np.inf], [np.inf], [-1e30], [1e30]])
    expected = [low, high] * 3
    np.testing.assert_array_equal(np.concatenate(action_map(space)(outside)), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
def test_unbounded_whole_numbers_are_rounded(dtype):
    space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), dtype)
    said = np.array([[0.4], [1.6], [2.5], [7.0]])
    np.testing.assert_array_equal(np.concatenate(action_map(space)(said)), [0, 2, 2, 7])
    most = np.iinfo(dtype)
    (huge,), (tiny,) = action_map(space)(np.array([[1e30], [-1e30]]))
    assert huge > 0.99 * most.max and tiny <= 0.99 * most.min


def test_the_largest_floats_as_bounds_are_none():
    most = float(np.finfo(np.float32).max)
    task_space = gymnasium.spaces.Box(-most, most, (2,), np.float32)
    bounds = importlib.import_module("nesht_jax.envs.gymnasium.spaces").action_bounds(task_space)
    assert (bounds[0] == -np.inf).all() and (bounds[1] == np.inf).all()


# ----------------------------------------------------------------------------- bytes and images


@pytest.mark.parametrize("scaled", [True, False])
def test_bytes_and_their_distractors_are_shown_alike(scaled):
    """Uniform on the same 256 values, as in the games of envpool."""
    task = bug("Bytes", distractors=2, options={} if scaled else {"scaled": False})
    observed = play(task, num_members=100).observed
    deviation = np.sqrt(np.asarray(observed.deviation) / float(observed.number))
    factor = 1 / 255 if scaled else 1
    np.testing.assert_allclose(deviation, factor * np.sqrt((256**2 - 1) / 12), rtol=0.06)
    np.testing.assert_allclose(observed.mean, factor * 127.5, rtol=0.1)
    seen = reference_observations(task, number=30, seed=1)
    np.testing.assert_allclose(seen / factor, np.rint(seen / factor), atol=1e-3)
    assert seen.shape == (30, 24) and 200 < (seen / factor)[:, 8:].max() <= 255.001


def test_numbers_have_normal_distractors():
    task = bug("Plain", distractors=3)
    observed = play(task, num_members=100).observed
    count = float(observed.number)
    variance = np.asarray(observed.deviation) / count
    assert np.abs(np.asarray(observed.mean)).max() < 5 / np.sqrt(count)
    assert np.abs(variance - 1).max() < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((12, 10, 3), (3, 12, 10)),
        ((4, 12, 10), (4, 12, 10)),
        ((12, 10), (1, 12, 10)),
        ((3, 12, 10, 3), None),
    ],
)
def test_an_image_is_shown_channels_first(shape, image_shape):
    task = bug("Image", options={"shape": shape})
    assert task.image_shape == image_shape and task.observation_size == np.prod(shape)
    vector = make_vector(task, num_envs=1, seed=3)
    (seen,) = vector.reset(np.arange(1))
    seed = int(np.random.SeedSequence(3).generate_state(1)[0] >> 1)
    image, _ = gymnasium.make("bug/Image-v0", shape=shape, disable_env_checker=True).reset(
        seed=seed
    )
    if image_shape == (3, 12, 10):
        image = image.transpose(2, 0, 1)
    np.testing.assert_allclose(seen, image.ravel() / 255, rtol=1e-6)


def test_convolutions_play_an_image_with_its_distractors():
    convolution = importlib.import_module("nesht_jax.policy.convolution").Convolution
    task = bug("Image", distractors=1)
    assert task.seen_image_shape == (6, 12, 10)
    policy = make_policy(task, convolutions=(convolution(4, 4, 2),))
    played = play(task, policy, num_members=2)
    assert (np.asarray(played.fitness) == 20).all()


def test_chosen_parts_of_an_observation_are_shown():
    task = bug("Mission", options={"keys": ["joints", "image"]})
    assert task.image_shape is None and task.observation_size == 18
    assert task.feature_names[0] == "joints[0]" or task.feature_names[0] == "image[0]"
    (seen,) = make_vector(task, num_envs=1).reset(np.arange(1))
    by_name = dict(zip(task.feature_names, seen.tolist(), strict=True))
    assert by_name["joints[0]"] == 0.5 and by_name["joints[1]"] == -0.5
    assert by_name["image[3]"] == pytest.approx(0.2)
    alone = bug("Mission", options={"keys": ["image"]})
    assert alone.image_shape == (1, 4, 4)
    np.testing.assert_allclose(make_vector(alone, num_envs=1).reset(np.arange(1)), 0.2, rtol=1e-6)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "kind", [ValueError, FileNotFoundError, AssertionError, TypeError, KeyError]
)
def test_whatever_a_constructor_raises_is_one_sentence_that_names_the_task(kind):
    message = f"gymnasium/bug/Fails-v0 cannot be made.*{kind.__name__}.*joint limits"
    with pytest.raises(ValueError, match=message):
        bug("Fails", options={"where": "make", "kind": kind})


@pytest.mark.parametrize(
    ("where", "place"), [("step", "in step 4 of an episode"), ("reset", "in the reset of an")]
)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_an_error_of_an_environment_keeps_its_place(where, place, kind):
    task = bug("Fails", options={"where": where, "kind": kind})
    message = f"gymnasium/bug_tasks:bug/Fails-v0 raised {kind.__name__} {place}.*: joint limits"
    with pytest.raises(SimulatorError, match=message) as error:
        play(task)
    assert type(error.value.__cause__) is kind
    innermost = error.value.__cause__.__traceback__
    while innermost.tb_next:
        innermost = innermost.tb_next
    assert innermost.tb_frame.f_code.co_filename == bug_tasks.__file__


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium tells the worker's traceback
def test_an_error_in_another_process_tells_its_step():
    task = bug("Fails", options={"vectorization_mode": "async"})
    with pytest.raises(SimulatorError, match="raised ValueError in step 4 of an episode: joint"):
        play(task, num_members=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Pays", {"form": "[1, 1]"}, "in step 1 of an episode: a reward must be one number, got"),
        ("NotBytes", {}, "in the reset of an episode: shows float64 where its space says uint8"),
        ("Misshapen", {}, "in step 2 of an episode: shows 2 features, its space has 3"),
    ],
)
def test_what_breaks_the_contract_is_told_with_its_place(name, options, message):
    with pytest.raises(SimulatorError, match=message):
        play(bug(name, options=options))


# ------------------------------------------------------------------ no more than the contract


@pytest.mark.parametrize("form", ["[1]", "[[1]]", "integer"])
def test_a_reward_of_one_number_in_any_form_is_a_number(form):
    assert (np.asarray(play(bug("Pays", options={"form": form})).fitness) == 20).all()


def test_none_as_a_reward_is_a_failure():
    assert np.isnan(np.asarray(play(bug("Pays", options={"form": "none"})).fitness)).all()


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_infos_are_free(mode):
    task = bug("Talkative", options={"vectorization_mode": mode})
    assert (np.asarray(play(task, num_members=6, num_envs=3).fitness) == 20).all()


def test_an_error_of_close_ends_nothing():
    task = bug("Fails", options={"where": "close"})
    assert (np.asarray(play(task).fitness) == 20).all()


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_one_instance_is_enough_to_train_and_to_evaluate(monkeypatch, mode):
    monkeypatch.setattr(bug_tasks.Single, "taken", False)
    task = bug("Single", options={"vectorization_mode": mode})
    policy = constant(task)
    reference_observations(task, number=3, seed=0)
    params = replicate(policy.init(KEY))
    training, evaluation = (
        make_evaluate(task, policy, num_members=m, num_envs=1, seed=m) for m in (4, 2)
    )
    moments = Moments.empty(3)
    for _ in range(2):
        assert (np.asarray(training(KEY, params, moments).fitness) == 20).all()
        assert (np.asarray(evaluation(KEY, params, moments).fitness) == 20).all()
    training.close()
    assert not bug_tasks.Single.taken
    assert (np.asarray(evaluation(KEY, params, moments).fitness) == 20).all()
    evaluation.close()


def test_one_instance_is_enough_to_step_outside(monkeypatch):
    monkeypatch.setattr(bug_tasks.Single, "taken", False)
    task = bug("Single")
    vector = make_vector(task, num_envs=1)
    assert random_play(vector, task, number=25, seed=0).shape == (25, 3)
    with pytest.raises(ValueError, match="bug/Single-v0 cannot be made.*the licence is in use"):
        make_evaluate(task, constant(task), num_members=2, num_envs=1)
    vector.close()


def test_training_and_evaluation_share_their_environments():
    task = bug("Plain")
    for num_members in (3, 7, 5):
        make_evaluate(task, constant(task), num_members=num_members)
    assert len(task.simulator.shared(1)._envs) == 7


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_equal_runs_agree_where_an_environment_ignores_its_seed(unchecked, mode):
    """And the program around them keeps its own random states.

    Unchecked, because what checks types draws from Python's.
    """
    task = bug("Careless", options={"vectorization_mode": mode})
    np.random.seed(5)
    first, around = play(task, num_members=6, num_envs=3), np.random.random()
    np.random.seed(5)
    assert around == np.random.random()
    again = play(task, num_members=6, num_envs=3)
    np.testing.assert_array_equal(first.fitness, again.fitness)
    other = play(task, num_members=6, num_envs=3, key=jax.random.key(8))
    assert (np.asarray(first.fitness) != np.asarray(other.fitness)).all()


def test_running_moments_go_on_beside_failed_episodes():
    """A policy that whitens by moments of a generation with failures plays the next one."""
    task = bug("HalfBlind")
    policy = make_policy(task, normalize=by_running_moments())
    evaluate = make_evaluate(task, policy, num_members=16)
    params = replicate(policy.init(KEY))
    first = evaluate(KEY, params, Moments.empty(3))
    second = evaluate(jax.random.key(1), params, first.observed)
    assert np.isfinite(np.asarray(second.observed.deviation)).all()
    assert 0 < np.isfinite(np.asarray(second.fitness)).sum() < 16
