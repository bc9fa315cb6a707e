# %% [markdown]
# # Your own simulator
#
# A heater keeps a room at 20 °C while the evening grows colder. The room is a Gymnasium environment
# of our own. A policy is shown its three sensors among thirty irrelevant ones, learns which of them
# to read, and then runs where there is no JAX. At the end the same room, written in JAX, trains in
# one compiled call.

# %%
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from nesht_jax import (
    Config,
    export,
    hard_threshold,
    hard_thresholding,
    load,
    nesht,
    standardize,
    train,
)
from nesht_jax.run.sections import SparsityConfig

# %% [markdown]
# ## The room
#
# Three temperatures in °C, and what a quarter of an hour makes of them. This is plain arithmetic,
# so it serves NumPy and JAX alike.

# %%
SENSORS = ["air", "wall", "outside"]
COLDEST, WARMEST = np.array([14.0, 12.0, 2.0]), np.array([22.0, 16.0, 12.0])  # at the beginning
QUARTERS = 48  # of an hour in one episode
DISTRACTORS = 10  # times as many irrelevant sensors


def quarter(temperatures, power):
    air, wall, outside = temperatures
    heated = air + 0.1 * (wall - air) + 0.05 * (outside - air) + 3.0 * power
    wall = wall + 0.02 * (air - wall) + 0.01 * (outside - wall)
    return (heated, wall, outside - 0.1), -((heated - 20.0) ** 2)


# %% [markdown]
# ## The environment
#
# Its metadata names what it shows and what it takes.


# %%
class Room(gymnasium.Env):
    metadata = {"render_modes": [], "feature_names": SENSORS, "action_names": ["heater"]}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.temperatures = self.np_random.uniform(COLDEST, WARMEST)
        return np.array(self.temperatures, np.float32), {}

    def step(self, action):
        self.temperatures, reward = quarter(self.temperatures, action[0])
        return np.array(self.temperatures, np.float32), reward, False, False, {}


gymnasium.register("Room-v0", entry_point=Room, max_episode_steps=QUARTERS)

# %% [markdown]
# ## Training
#
# The policy begins with no input. One lives if chance does not explain what the search has learned
# of its weights; of the others those that promise most are tried, in small perturbations.

# %%
run = Path(tempfile.mkdtemp(prefix="own_simulator-"))
select = SparsityConfig(method="selection", unit="row", explore=0.1)
result = train(
    Config(
        task="gymnasium/Room-v0",
        distractors=DISTRACTORS,
        sparsity=select,
        steps=200_000,
        out=str(run),
    )
)
print(result.reading.verdict())
print(*result.reading.law(), sep="\n")
print(f"({result.reading.units})")

# %% [markdown]
# ## An evening
#
# `load` gives the policy as a function from an observation to an action.

# %%
policy = load(run)
room, noise = Room(), np.random.default_rng(0)
observation, _ = room.reset(seed=1)
observations, actions = [], []
for _ in range(QUARTERS):
    irrelevant = noise.normal(size=DISTRACTORS * len(SENSORS))
    observations.append(np.concatenate([observation, irrelevant]))
    actions.append(policy(observations[-1]))
    observation, *_ = room.step(actions[-1])

# %% [markdown]
# ## Without JAX
#
# `export` writes one Python file, as `nesht export RUN --to numpy` does. Another process, in which
# JAX cannot be imported, acts on the same evening.

# %%
exported = export(run, "numpy")
print(f"{exported.size} bytes; of the dense policy {exported.dense_size}")
np.save(run / "observations.npy", observations)
WITHOUT_JAX = """
import sys
sys.modules["jax"] = None  # from here on `import jax` raises ImportError
import numpy as np
from policy import act
np.save("actions.npy", [act(observation) for observation in np.load("observations.npy")])
"""
subprocess.run([sys.executable, "-c", WITHOUT_JAX], cwd=run, check=True)
difference = np.abs(np.load(run / "actions.npy") - actions).max()
print(f"without JAX: largest difference {difference:.1e} over {QUARTERS} actions")

# %% [markdown]
# ## The same room in JAX
#
# Here an episode is a function of weights and a key, a generation is one of the state of the
# search, and training is a `scan` over generations. Hard thresholding keeps two weights of 33; all
# may move in the nine generations between two thresholdings.

# %%
MIDDLE, SPREAD = jnp.array([20.0, 15.0, 5.0]), jnp.array([2.0, 2.0, 4.0])  # to normalize by


def episode(weights, key):
    reset_key, noise_key = jax.random.split(key)

    def step(temperatures, key):
        irrelevant = jax.random.normal(key, (DISTRACTORS * len(SENSORS),))
        seen = jnp.concatenate([(temperatures - MIDDLE) / SPREAD, irrelevant])
        temperatures, reward = quarter(temperatures, jax.nn.sigmoid(2 * weights @ seen))
        return jnp.stack(temperatures), reward

    temperatures = jax.random.uniform(reset_key, (3,), minval=COLDEST, maxval=WARMEST)
    return jax.lax.scan(step, temperatures, jax.random.split(noise_key, QUARTERS))[1].sum()


optimizer = optax.chain(optax.sgd(0.002), hard_thresholding(keep=2, every=10))
algorithm = nesht(num_members=32, sigma=0.05, optimizer=optimizer, shaping=standardize)


@jax.jit
def training(state, keys):
    def generation(state, key):
        returns = jax.vmap(episode, (0, None))(algorithm.ask(state), key)
        state, info = algorithm.tell(state, returns)
        return state, info.fitness_mean

    return jax.lax.scan(generation, state, keys)


started = time.monotonic()
state = algorithm.init(jax.random.key(0), jnp.zeros((1 + DISTRACTORS) * len(SENSORS)))
state, curve = training(state, jax.random.split(jax.random.key(1), 200))
weights = hard_threshold(state.params, 2)
seconds = time.monotonic() - started
terms = [f"{weights[i]:+.2f} {name}" for i, name in enumerate(SENSORS) if weights[i]]
irrelevant = jnp.count_nonzero(weights[len(SENSORS) :])
print(f"in JAX: 200 generations in {seconds:.1f} s, compilation included")
print(f"heater = 0.5 + 0.5 tanh({' '.join(terms)}), and {irrelevant} irrelevant inputs")

# %% [markdown]
# ## The picture
#
# Left, the evening under the policy of three sensors. Right, how the room in JAX was learned.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
hours = np.arange(QUARTERS) / 4
left.plot(hours, np.stack(observations)[:, :3], label=SENSORS)
left.plot(hours, 20 * np.stack(actions), color="0.6", label="heater (full power: 20)")
left.set(xlabel="hours", ylabel="°C")
right.plot(curve)
right.set(xlabel="generation", ylabel="mean return of the population", yscale="symlog")
figure.legend(loc="outside lower center", ncols=4)
figure.savefig(run / "evening.png", dpi=120)
plt.show()
print(f"the picture: {run / 'evening.png'}")
