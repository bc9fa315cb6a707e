# %% [markdown]
# # A figure of a paper
#
# How well does an evolution strategy balance a pole among more and more irrelevant inputs, and does
# hard thresholding help? Thirty runs, two methods × three numbers of irrelevant inputs × five
# seeds, become a CSV file, a figure with intervals and a LaTeX table.

# %%
import csv
from collections import defaultdict
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from nesht_jax import Config
from nesht_jax.report.statistics import bootstrap_interval
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.run.sweep import sweep

TASK, SENSORS, HORIZON = "envpool/InvertedPendulum-v5", 4, 200
DISTRACTORS = [0, 15, 30]  # times as many irrelevant inputs as sensors
SEEDS = range(5)
STEPS = 50_000  # environment steps of every run
folder = Path(f"runs/figure_of_a_paper-{STEPS}")

# %% [markdown]
# ## The runs
#
# The two methods differ in their sparsity alone. NES moves all weights. With selection an input
# lives if chance does not explain what the search has learned of its weights. The rule of the
# paper, the largest tenth of the weights, would be `SparsityConfig(fraction=0.9, every=1)`. A run
# ends with the generation that reaches its steps.
#
# `sweep` trains what is missing: if this is cut off, start it again; with more seeds, it trains
# those alone. Runs that differ in their seed alone share what JAX compiles.

# %%
METHODS = [
    SparsityConfig(method="none"),
    SparsityConfig(method="selection", unit="row", explore=0.1),
]
configs = [
    Config(task=TASK, horizon=HORIZON, distractors=number, sparsity=sparsity, steps=STEPS)
    for number in DISTRACTORS
    for sparsity in METHODS
]
jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
rows = []
for config, result in sweep(configs, seeds=SEEDS, folder=folder, console=Console(quiet=True)):
    rows.append(
        {
            "method": config.method,
            "irrelevant": config.distractors * SENSORS,
            "seed": config.seed,
            "steps": sum(row.steps for row in result.rows),
            "return": result.rows[-1].evaluation.mean,
            "reads": result.reading.verdict(),
        }
    )
    print(*rows[-1].values(), sep=", ")

# %% [markdown]
# ## The CSV file

# %%
with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)

# %% [markdown]
# ## Mean and interval
#
# The 95 % interval is that of the mean over seeds, by bootstrap.

# %%
returns = defaultdict(list)
for row in rows:
    returns[row["method"], row["irrelevant"]].append(row["return"])
found = {
    case: (np.mean(values), *bootstrap_interval([values], np.mean))
    for case, values in returns.items()
}

# %% [markdown]
# ## The figure

# %%
numbers = [number * SENSORS for number in DISTRACTORS]
figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
for method in ("NES", "NES-selection"):
    mean, low, high = np.transpose([found[method, number] for number in numbers])
    axes.plot(numbers, mean, "o-", label=method)
    axes.fill_between(numbers, low, high, alpha=0.2)
axes.set(xlabel=f"irrelevant inputs beside {SENSORS} sensors", xticks=numbers)
axes.set_ylabel(f"return, at most {HORIZON}")
axes.set_title(f"{TASK}, {STEPS:,} steps, {len(SEEDS)} seeds", fontsize=10)
axes.legend(loc="lower left", frameon=False)
figure.savefig(folder / "figure.png", dpi=150)
plt.show()

# %% [markdown]
# ## The table

# %%
lines = [
    rf"\begin{{tabular}}{{l{'r' * len(numbers)}}}",
    rf"irrelevant inputs & {' & '.join(map(str, numbers))} \\ \hline",
]
for method in ("NES", "NES-selection"):
    cells = ["{:.0f} [{:.0f}, {:.0f}]".format(*found[method, number]) for number in numbers]
    lines.append(rf"{method} & {' & '.join(cells)} \\")
lines.append(r"\end{tabular}")
(folder / "table.tex").write_text("\n".join(lines) + "\n", encoding="utf-8")
print(*lines, sep="\n")
print(f"results.csv, figure.png and table.tex are in {folder}")
