# %% [markdown]
# # Which sensors does a runner need?
#
# A robot of two legs, HalfCheetah, has 17 sensors. We hide them among 170 inputs of random numbers,
# train the robot to run, and ask which inputs its policy reads.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from nesht_jax import load
from nesht_jax.run.cli import main as nesht_command

# %% [markdown]
# ## Training
#
# In a terminal this is `nesht train quickstart --steps 500000 --out RUN`. The policy is linear,
# and begins with no input. One lives if chance does not explain what the search has learned of its
# weights; of the others those that promise most are tried, in small perturbations.

# %%
STEPS = 500_000
run = Path(tempfile.mkdtemp(prefix="which_sensors-"))
nesht_command(["train", "quickstart", f"--steps={STEPS}", f"--out={run}"])

# %% [markdown]
# ## What it reads
#
# The command has printed the law of the policy: one formula for each motor, the strongest sensor
# first. `reading` holds that (`reading.law()`), the names, and which inputs have a weight.

# %%
reading = load(run).reading
sensors = [name for name, is_read in zip(reading.sensors, reading.read[0], strict=True) if is_read]
print(f"After {STEPS:,} steps the policy {reading.verdict()}: {', '.join(sensors)}.")

# %% [markdown]
# ## The picture
#
# Left, the weights between sensors and motors: red for positive ones, blue for negative ones, grey
# for sensors that are not read. Right, how many weights there are on the sensors and on each of ten
# sets of irrelevant inputs.

# %%
plt.figure(figsize=(9, 5))
plt.imshow(plt.imread(run / "sensors.png"))
plt.axis("off")
plt.show()
print(f"the picture: {run / 'sensors.png'}")

# %% [markdown]
# ## How far to trust this
#
# A quarter of the quickstart's 2,000,000 steps finds sensors and a first gait. With all steps the
# policies of five seeds returned 4028 to 5003, and read 9 to 14 of 17 sensors and 0 of 170
# irrelevant inputs, as `docs/benchmarks/quickstart.md` shows. Some sensors are read on every seed,
# others on few: before you take a sensor off a robot, ask more than one seed, by `--seed=1`.
