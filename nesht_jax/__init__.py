"""Natural Evolution Strategies with Hard Thresholding: sparse policies at simulator speed.

Fitness is maximised, everywhere.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nesht_jax.contract import Evaluate, Evaluation, Members
from nesht_jax.envs import make_evaluate, task_names, task_spec
from nesht_jax.nesht import Algorithm, Info, State, make_generation, nesht
from nesht_jax.policy import Policy, make_policy
from nesht_jax.shaping import (
    centered_rank,
    centered_rank_by_order,
    identity,
    standardize,
    wierstra,
)
from nesht_jax.threshold import hard_threshold, hard_thresholding, masked_moments

if TYPE_CHECKING:
    from nesht_jax.run.config import Config
    from nesht_jax.run.train import Result, train

__all__ = [
    "Algorithm",
    "Config",
    "Evaluate",
    "Evaluation",
    "Info",
    "Members",
    "Policy",
    "Result",
    "State",
    "centered_rank",
    "centered_rank_by_order",
    "hard_threshold",
    "hard_thresholding",
    "identity",
    "make_evaluate",
    "make_generation",
    "make_policy",
    "masked_moments",
    "nesht",
    "standardize",
    "task_names",
    "task_spec",
    "train",
    "wierstra",
]

_RUN = {"Config": "config", "Result": "train", "train": "train"}


def __getattr__(name: str) -> Any:
    """Loads checkpoints, plots and logs only for who trains."""
    if name not in _RUN:
        raise AttributeError(f"module 'nesht_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nesht_jax.run.{_RUN[name]}"), name)
