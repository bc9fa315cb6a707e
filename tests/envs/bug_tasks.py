"""Small environments of Gymnasium, each with one habit that trainers stumble over."""

import random

import gymnasium
import numpy as np
from gymnasium import spaces


class Plain(gymnasium.Env):
    """Twenty steps of noise, two actions in [-1, 1]; the base of the others, without fault."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    length = 20

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        return self.seen(), self.reward(action), self.steps >= self.length, False, {}

    def seen(self):
        return self.np_random.normal(size=3).astype(np.float32)

    def reward(self, action):
        return 1.0


class Logged(Plain):
    """Keeps the actions that it was given."""

    log: list = []

    def reward(self, action):
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.log.append(np.array(action))
        return 1.0


class HalfBlind(Plain):
    """Every second episode has a sensor that is not a number from its fifth step on."""

    action_space = spaces.Discrete(2)
    broken = np.nan

    def reset(self, *, seed=None, options=None):
        self.bad = seed is not None and seed % 2 == 1
        return super().reset(seed=seed)

    def seen(self):
        shown = super().seen()
        if self.bad and self.steps >= 5:
            shown[1] = self.broken
        return shown


class HalfPriceless(Plain):
    """Every second episode pays what is not a number in its fifth step."""

    paid = np.nan

    def reset(self, *, seed=None, options=None):
        self.bad = seed is not None and seed % 2 == 1
        return super().reset(seed=seed)

    def reward(self, action):
        return self.paid if self.bad and self.steps == 5 else 1.0


class Huge(Plain):
    """Shows 1e300, which float32 cannot hold, in its third step."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def seen(self):
        return np.array([1e300 if self.steps == 3 else 0.0, 1e9 + self.steps, 1.0])


class DarkEnd(Plain):
    """Shows what is not a number when the episode is over, and nobody acts on it."""

    def seen(self):
        return np.full(3, np.nan if self.steps == self.length else 0.0, np.float32)


class ZeroToOne(Logged):
    """Refuses an action outside [0, 1]."""

    action_space = spaces.Box(0.0, 1.0, (2,), np.float32)


class ZeroToTen(Logged):
    """Takes whole numbers from 0 to 10."""

    action_space = spaces.Box(0, 10, (2,), np.int64)


class Options(Plain):
    """Wants Gymnasium's default None, or a map with a goal."""

    def reset(self, *, seed=None, options=None):
        self.goal = 0 if options is None else options["goal"]
        return super().reset(seed=seed)

    def reward(self, action):
        return float(self.goal)


class Configured(Plain):
    """Keeps what it was made with."""

    def __init__(self, config=None, limits=(0.0, np.inf), label="none", ticks=3):
        self.given = config, limits, label, ticks


class Fails(Plain):
    """Raises in the fourth step, or in the reset, or when it is made."""

    def __init__(self, where="step", kind=ValueError):
        self.where, self.kind = where, kind
        self._raise("make")

    def _raise(self, where):
        if self.where == where:
            raise self.kind("joint limits must be increasing")

    def reset(self, *, seed=None, options=None):
        self._raise("reset")
        return super().reset(seed=seed)

    def reward(self, action):
        if self.steps == 4:
            self._raise("step")
        return 1.0

    def close(self):
        self._raise("close")


class Pays(Plain):
    """Pays a reward of a given form."""

    def __init__(self, form="[1]"):
        self.form = {
            "[1]": np.ones(1, np.float32),
            "[[1]]": [[1]],
            "integer": np.int64(1),
            "none": None,
            "[1, 1]": np.ones(2),
        }[form]

    def reward(self, action):
        return self.form


class Talkative(Plain):
    """Tells infos of another shape and kind each time."""

    def reset(self, *, seed=None, options=None):
        seen, _ = super().reset(seed=seed)
        return seen, self.info()

    def step(self, action):
        return *super().step(action)[:4], self.info()

    def info(self):
        number = int(self.np_random.integers(1, 5))
        return {"path": np.arange(number), "goal": "go" if number > 2 else None}


class Careless(Plain):
    """Draws from the global random states, and ignores its seed."""

    def seen(self):
        return np.random.normal(size=3).astype(np.float32)

    def reward(self, action):
        return random.random() + float(np.random.normal())


class Single(Plain):
    """Holds a licence of which there is one."""

    taken = False

    def __init__(self):
        if Single.taken:
            raise RuntimeError("the licence is in use")
        Single.taken = True

    def close(self):
        Single.taken = False


class Bytes(Plain):
    """Shows eight bytes."""

    observation_space = spaces.Box(0, 255, (8,), np.uint8)

    def seen(self):
        return self.np_random.integers(0, 256, 8, dtype=np.uint8)


class NotBytes(Bytes):
    """Shows fractions where its space says bytes."""

    def seen(self):
        return self.np_random.uniform(0, 1, 8)


class Image(Plain):
    """Shows an image of 12 x 10 pixels, channels last by default."""

    def __init__(self, shape=(12, 10, 3)):
        self.observation_space = spaces.Box(0, 255, tuple(shape), np.uint8)

    def seen(self):
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)


class Mission(Plain):
    """Shows an image beside a text without a fixed number of features."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "joints": spaces.Box(-1, 1, (2,), np.float32),
            "mission": spaces.Sequence(spaces.Discrete(3)),
        }
    )

    def seen(self):
        joints = np.array([0.5, -0.5], np.float32)
        return {"image": np.full((4, 4, 1), 51, np.uint8), "joints": joints, "mission": (1,)}


class Misshapen(Plain):
    """Shows a feature less than its space says, from the second step on."""

    def seen(self):
        return super().seen()[: 3 if self.steps < 2 else 2]


for _name, _made in list(globals().items()):
    if isinstance(_made, type) and issubclass(_made, Plain):
        gymnasium.register(
            f"bug/{_name}-v0", entry_point=f"bug_tasks:{_name}", max_episode_steps=50
        )
