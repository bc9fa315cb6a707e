"""Distractors, and noise on actions, against what their distributions must be."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax.envs.distractors import PERIOD, act, append, no_action, num_action_normals
from nesht_jax.envs.host import normals
from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.envs.host_stage import HostStage
from nesht_jax.envs.rollout import make_act
from nesht_jax.envs.suite import VectorStep
from nesht_jax.envs.tasks import make_evaluate, make_task, reference_observations
from nesht_jax.types import Moments, Policy, Task, replicate

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(0)
OBSERVATION = jnp.array([3.0, -4.0])
LAST_ACTION = jnp.array([0.5, -0.2])
BITS = jax.random.bits(jax.random.key(11), (2, 2), jnp.uint32)


def task_of(low, high, *, discrete=False):
    low, high = np.float32(low), np.float32(high)
    return Task("probe/none", {}, 2, low, high, discrete, horizon=10)


CHOICE = task_of([-np.inf] * 3, [np.inf] * 3, discrete=True)
BODY = task_of([-1, -0.2], [1, 0.3])


# -------------------------------------------------------------------------------------- distractors


def distracted(number, kind="normal"):
    return replace(BODY, distractors=number, distractor_kind=kind)


def features(bits, steps, kind="normal"):
    """What is seen in episodes of these bits, at these steps: [episodes, steps, features]."""
    task = distracted(2, kind)
    last = jnp.resize(LAST_ACTION, no_action(task).shape)
    of_episode = jax.vmap(lambda bits, t: append(OBSERVATION, task, bits, t, last), (None, 0))
    return jax.jit(jax.vmap(of_episode, (0, None)))(bits, steps)


@functools.cache
def drawn(kind="normal"):
    """Of 100 episodes of 50 steps: [100, 50, 4] distractors."""
    bits = jax.random.bits(jax.random.key(11), (100, 2), jnp.uint32)
    return np.asarray(features(bits, jnp.arange(50), kind))[..., 2:]


def test_the_true_observation_comes_first_untouched():
    seen = features(jax.random.bits(KEY, (3, 2), jnp.uint32), jnp.arange(4))
    np.testing.assert_array_equal(seen[..., :2], np.broadcast_to(OBSERVATION, (3, 4, 2)))


def test_without_distractors_the_observation_is_all():
    np.testing.assert_array_equal(
        append(OBSERVATION, BODY, BITS[0], jnp.int32(0), no_action(BODY)), OBSERVATION
    )


@pytest.mark.parametrize(
    ("power", "expected", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_distractors_are_standard_normal(power, expected, variance):
    powers = drawn() ** power
    standard_error = np.sqrt(variance / powers.size)
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * standard_error


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["episodes", "steps", "features"])
@pytest.mark.parametrize("lag", [1, 2])
def test_distractors_are_independent_across(axis, lag):
    numbers = np.moveaxis(drawn(), axis, 0)
    products = numbers[lag:] * numbers[:-lag]
    assert abs(products.mean()) < STANDARD_ERRORS / np.sqrt(products.size)


def test_distractors_are_fresh_each_step_and_episode():
    assert len(np.unique(drawn())) > 0.99 * drawn().size


def test_scaled_distractors_are_ten_times_as_large():
    np.testing.assert_allclose(drawn("scaled"), 10 * drawn(), rtol=1e-6)


def test_driven_distractors_are_normal_about_the_last_action():
    about = np.tile(LAST_ACTION, 2)
    np.testing.assert_allclose(drawn("driven") - about, drawn(), atol=1e-6)


def test_where_no_distractor_is_driven_no_action_is_remembered():
    assert [no_action(distracted(n, k)).size for n, k in ((1, "driven"), (1, "slow"))] == [2, 0]
    assert no_action(distracted(0, "driven")).size == 0


# ------------------------------------------------------------------------------- kinds on the host


def hosted(kind, *, rows=100, steps=50, played=None, of=range(100), segments=2):
    """Distractors of some rows, as ``drawn``: [rows, steps, segments · 2]."""
    task = distracted(segments, kind)
    source = HostDistractors(task, rows, normals, np.zeros((0, 2)) if played is None else played)
    stream, chosen = np.random.SFC64(5), np.arange(rows)[list(of)]
    return np.stack([source.draw(stream, chosen, step) for step in range(steps)], axis=1)


SLOW = {"in JAX": lambda: drawn("slow"), "on the host": lambda: hosted("slow")}


@pytest.mark.parametrize("where", SLOW)
def test_slow_distractors_are_standard_normal_at_every_step(where):
    numbers = SLOW[where]()
    for step in range(50):
        assert stats.kstest(numbers[:, step].ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("where", SLOW)
def test_slow_distractors_keep_their_values_for_a_while(where):
    """Within a period two steps have the cosine of the angle between them as correlation."""
    numbers = SLOW[where]()
    for first, second in [(0, 1), (3, 10), (20, 21), (25, 35)]:
        expected = np.cos(np.pi / 2 * (second - first) / PERIOD)
        found = np.corrcoef(numbers[:, first].ravel(), numbers[:, second].ravel())[0, 1]
        assert abs(found - expected) < STANDARD_ERRORS / np.sqrt(numbers[:, 0].size)
    for first, second in [(0, PERIOD), (5, 5 + 2 * PERIOD), (19, 40)]:
        found = np.corrcoef(numbers[:, first].ravel(), numbers[:, second].ravel())[0, 1]
        assert abs(found) < STANDARD_ERRORS / np.sqrt(numbers[:, 0].size)
    between = np.corrcoef(numbers[:, 19].ravel(), numbers[:, 20].ravel())[0, 1]
    assert between > 0.9  # the next block begins where the last one ends


def test_normal_and_scaled_distractors_on_the_host_differ_in_scale():
    np.testing.assert_allclose(hosted("scaled"), 10 * hosted("normal"), rtol=1e-6)
    assert abs(hosted("normal").std() - 1) < STANDARD_ERRORS / np.sqrt(2 * 20_000)


def test_driven_distractors_on_the_host_are_normal_about_the_last_action_of_their_row():
    sources = [HostDistractors(distracted(2, k), 3, normals, PLAY) for k in ("driven", "normal")]
    actions = np.array([[0.5, -0.2], [1, 0], [0.3, 0.1]], np.float32)
    streams = [np.random.SFC64(5) for _ in sources]
    for step, rows in enumerate(np.array([[0, 1, 2], [2, 0, 1]])):
        found, bare = (
            source.draw(stream, rows, step) for source, stream in zip(sources, streams, strict=True)
        )
        expected = np.tile(actions[rows], (1, 2)) if step else 0
        np.testing.assert_allclose(found - bare, expected * np.ones((3, 4)), atol=1e-6)
        sources[0].acted(np.arange(3), actions)


PLAY = np.stack([np.arange(16.0), 100 + np.arange(16.0)], axis=1)
"""Sixteen observations of two features, none of whose values repeats."""


def test_marginal_distractors_are_values_of_their_true_twin():
    numbers = hosted("marginal", played=PLAY)
    own, other = numbers[..., 0::2], numbers[..., 1::2]
    for found, values in ((own, PLAY[:, 0]), (other, PLAY[:, 1])):
        counts = [(found == value).sum() for value in values]
        assert sum(counts) == found.size and stats.chisquare(counts).pvalue > 1e-3
    together = np.corrcoef(own.ravel(), other.ravel())[0, 1]
    later = np.corrcoef(own[:, :-1].ravel(), own[:, 1:].ravel())[0, 1]
    assert max(abs(together), abs(later)) < STANDARD_ERRORS / np.sqrt(own.size)


def test_replayed_distractors_are_other_episodes_step_by_step():
    numbers = hosted("replayed", played=PLAY)
    begun = numbers[:, 0, 0::2].astype(int)
    for segment in range(2):
        steps = (begun[:, segment, None] + np.arange(50)) % 16
        np.testing.assert_array_equal(numbers[..., 2 * segment : 2 * segment + 2], PLAY[steps])
    assert stats.chisquare(np.bincount(begun.ravel(), minlength=16)).pvalue > 1e-3
    assert (begun[:, 0] != begun[:, 1]).mean() > 0.8


@pytest.mark.parametrize("kind", ["slow", "driven", "replayed"])
def test_rows_that_are_kept_go_on(kind):
    task, chosen = distracted(2, kind), np.array([7, 2, 2])
    kept, whole = (HostDistractors(task, 9, normals, PLAY) for _ in range(2))
    for source in (kept, whole):
        source.draw(np.random.SFC64(1), np.arange(9), 0)
        source.acted(np.arange(9), np.linspace(-1, 1, 18, dtype=np.float32).reshape(9, 2))
    kept.keep(chosen)
    went_on = kept.draw(np.random.SFC64(2), np.arange(3), 1)
    np.testing.assert_array_equal(went_on, whole.draw(np.random.SFC64(2), chosen, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "scaled", "slow", "marginal", "replayed"])
@pytest.mark.parametrize("suite", ["gymnasium", "envpool"])
def test_suites_show_every_kind(suite, kind):
    """By the moments of what policies read: those of the true features, or of N(0, 1)."""
    task = make_task(f"{suite}/CartPole-v1", distractors=3, distractor_kind=kind, horizon=30)
    policy = still(task)._replace(uses_moments=True)
    evaluate = make_evaluate(task, policy, num_members=64)
    played = evaluate(KEY, replicate(policy.init(KEY)), Moments.empty(task.num_features))
    spread = np.sqrt(np.asarray(played.observed.deviation) / played.observed.number).reshape(4, 4)
    expected = {"normal": 1, "scaled": 10, "slow": 1}.get(kind)
    if expected is None:
        shown = reference_observations(replace(task, distractors=0), number=4096, seed=0)
        expected = shown.std(0)
    np.testing.assert_allclose(spread[1:].mean(0), expected * np.ones(4), rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gymnasium/Pendulum-v1", "envpool/Hopper-v5", "gymnax/Pendulum-v1"]
)
def test_suites_show_what_was_done_a_step_ago(name):
    """A policy always says the same, beyond the bounds of its last action; robots fall in turn."""
    task = make_task(name, distractors=2, distractor_kind="driven", horizon=60)
    said, size = jnp.linspace(3, 0.3, task.num_actions), task.observation_size
    policy = still(task)._replace(apply=lambda *_: said, uses_moments=True)
    evaluate = make_evaluate(task, policy, num_members=64)
    played = evaluate(KEY, replicate(policy.init(KEY)), Moments.empty(task.num_features))
    number = int(played.observed.number)
    done = np.clip(said, task.action_low, task.action_high)
    expected = (1 - 64 / number) * np.resize(done, 2 * size)  # the first step of each has done none
    error = STANDARD_ERRORS / np.sqrt(number)
    np.testing.assert_allclose(played.observed.mean[size:], expected, atol=error)


def test_a_stage_shows_what_was_done_a_step_ago():
    one = np.zeros(1)
    vector = SimpleNamespace(
        reset=lambda ids: np.zeros((1, 2)),
        step=lambda action, ids: VectorStep(np.zeros((1, 2)), one, one > 0, one > 0),
    )
    task, action = distracted(2, "driven"), np.array([100, -200], np.float32)
    source = HostDistractors(task, 1, normals, PLAY)
    picture = np.zeros((1, 1, 3), np.uint8)
    stage = HostStage(task, vector, source, lambda shown: picture, seconds=1.0, seed=0)
    first, (then, _, _) = stage.reset(), stage.step(action)
    np.testing.assert_allclose(first[2:], np.zeros(4), atol=5)
    np.testing.assert_allclose(then[2:], np.tile(action, 2), atol=5)


@pytest.mark.parametrize(
    "name, kind, match",
    [
        (
            "probe/linear",
            "slowly",
            "must be one of normal, scaled, slow, driven, marginal, replayed",
        ),
        ("envpool/CartPole-v1", "driven", "are not a choice: envpool/CartPole-v1"),
        ("probe/linear", "replayed", "needs random play, which probe/linear has not"),
        ("envpool/Pong-v5", "slow", "is of features, and envpool/Pong-v5 shows images"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(name, kind, match):
    with pytest.raises(ValueError, match=match):
        make_task(name, distractors=1, distractor_kind=kind)


def test_bytes_have_one_kind():
    options = {"observation": "ram"}
    task = make_task("envpool/Pong-v5", distractors=1, distractor_kind="slow", options=options)
    with pytest.raises(ValueError, match="and envpool/Pong-v5 shows bytes"):
        make_evaluate(task, still(task), num_members=2)


# ------------------------------------------------------------------------------ actions from scores


def test_draws_an_action_from_the_softmax_of_the_scores():
    scores, n = jnp.array([1.0, -0.5, 2.0]), 40_000
    normals = jax.random.normal(KEY, (n, 3))
    said = jnp.broadcast_to(scores, (n, 3))
    done = act(said, normals, CHOICE, action_noise=0.0, stochastic=True).argmax(1)
    weights = np.exp(np.asarray(scores, np.float64))
    expected = n * weights / weights.sum()
    assert stats.chisquare(np.bincount(done, minlength=3), expected).pvalue > 1e-3


@pytest.mark.parametrize("extreme", [-5.4, 5.4])
def test_gumbel_noise_is_finite_at_the_ends_of_the_normals(extreme):
    made = act(jnp.zeros(3), jnp.full(3, extreme), CHOICE, action_noise=0.0, stochastic=True)
    expected = stats.gumbel_r.ppf(stats.norm.cdf(extreme))
    if extreme > 0:
        expected = -np.log(-stats.norm.logcdf(extreme))
    np.testing.assert_allclose(made, np.full(3, expected), rtol=1e-4)


def still(task, *, stochastic=False):
    """A policy that says 0 whatever it sees."""
    zeros = jnp.zeros(task.num_actions)
    return Policy(lambda key: zeros, lambda params, moments, x: params, stochastic=stochastic)


@pytest.mark.parametrize(
    "name",
    ["gymnasium/CartPole-v1", pytest.param("gymnax/CartPole-v1", marks=pytest.mark.slow)],
)
def test_suites_draw_actions_from_scores(name):
    """Scores that say nothing: a coin, whose games last as those of a coin do, 22 steps."""
    task, episodes = make_task(name), 64
    policy = still(task, stochastic=True)
    played = make_evaluate(task, policy, num_members=episodes)(
        KEY, replicate(policy.init(KEY)), None
    )
    lengths = np.asarray(played.steps)
    error = lengths.std() / np.sqrt(episodes)
    assert abs(lengths.mean() - 22.2) < 4 * error and lengths.std() > 5


# ------------------------------------------------------------------------------------- action noise


def test_no_action_leaves_finite_bounds():
    """With noise or without, of one environment or of many."""
    normals = jnp.array([[0.5, 9.0], [-9.0, -1.0]])
    made = act(jnp.zeros((2, 2)), normals, BODY, action_noise=0.2, stochastic=False)
    np.testing.assert_allclose(made, [[0.1, 0.3], [-1, -0.2]], atol=1e-6)
    alone = act(jnp.zeros(2), normals[0], BODY, action_noise=0.2, stochastic=False)
    np.testing.assert_array_equal(alone, made[0])
    said = jnp.array([3.0, 0.25])
    plain = act(said, jnp.zeros(0), BODY, action_noise=0.0, stochastic=False)
    np.testing.assert_array_equal(plain, np.float32([1, 0.25]))
    half = task_of([-np.inf, 0], [0, np.inf])
    plain = act(jnp.array([-9.0, -9.0]), jnp.zeros(0), half, action_noise=0.0, stochastic=False)
    np.testing.assert_array_equal(plain, [-9.0, 0.0])


def test_without_noise_and_bounds_an_action_is_what_it_is():
    assert num_action_normals(CHOICE, action_noise=0.0, stochastic=False) == 0
    assert num_action_normals(CHOICE, action_noise=0.0, stochastic=True) == 3
    said = jnp.array([3.0, -3.0, 9.0])
    assert act(said, jnp.zeros(0), CHOICE, action_noise=0.0, stochastic=False) is said


def actions(bound, action_noise, steps=2000):
    """Of a policy that does nothing, at every step of one episode."""
    task = task_of([-bound], [bound])
    policy = still(task)
    acting = make_act(task, policy, action_noise=action_noise)
    params, idle = policy.init(KEY), no_action(task)
    step = jax.vmap(lambda t: acting(params, None, OBSERVATION, BITS, t, idle)[1])
    return np.asarray(step(jnp.arange(steps)))[:, 0]


def test_action_noise_has_the_scale_asked_for():
    noise = actions(np.inf, 0.3)
    assert abs(noise.mean()) < STANDARD_ERRORS * 0.3 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.3 - 1) < STANDARD_ERRORS / np.sqrt(2 * noise.size)


def test_action_noise_is_fresh_each_step():
    noise = actions(np.inf, 0.3)
    assert abs((noise[1:] * noise[:-1]).mean()) < STANDARD_ERRORS * 0.3**2 / np.sqrt(noise.size)


def test_noisy_actions_keep_their_bounds():
    noise = actions(0.2, 0.3)
    assert noise.min() == np.float32(-0.2) and noise.max() == np.float32(0.2)


def test_without_action_noise_actions_are_the_policys():
    assert (actions(1.0, 0.0, steps=5) == 0).all()


def test_actions_are_not_both_drawn_and_noisy():
    with pytest.raises(ValueError, match="drawn from scores already: action_noise must be 0"):
        make_evaluate(CHOICE, still(CHOICE, stochastic=True), num_members=2, action_noise=0.1)
