"""Gymnasium's MuJoCo tasks, version v5, simulated by MJX: the room for accelerators.

The same tasks, not look-alikes: the XML is the one inside the installed ``gymnasium`` package, and
frame skip, integrator, observation, reward, termination and reset noise are those of
``gymnasium/envs/mujoco/*_v5.py``. Only the arithmetic differs: float32 here, float64 there;
Newton's solver for the humanoids, whose XML asks for PGS, which MJX lacks; and where the pusher's
fork touches its object, MJX goes ten steps downhill to the point of contact: errors there are up
to some 1e-3.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled bindings have no type stubs.

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco import mjx

from nesht_jax.envs.mjx_contacts import like_c
from nesht_jax.envs.mjx_tasks import TASKS, Task
from nesht_jax.envs.quiet import quiet
from nesht_jax.envs.rollout import Environment, Transition
from nesht_jax.envs.task import TaskOptions, TaskSpec

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

SOLVERS = {"newton": mjx.SolverType.NEWTON, "cg": mjx.SolverType.CG}

# The XML's tolerance of 1e-8 is out of reach of float32, so its limits of 100 and 50 iterations
# would be spent to the last, 2 to 9 times slower for the same digits; Newton is done within 8.
DEFAULTS = {"impl": "jax", "solver": "newton", "iterations": 8, "ls_iterations": 8}


class State(NamedTuple):
    """All that one step hands to the next; the rest of ``mjx.Data`` a step computes anew.

    Attributes:
        qpos: generalized positions; SI units, as everything here.
        qvel: generalized velocities.
        warmstart: accelerations of the last substep, the constraint solver's first guess.
        position: how far the body has come; the reward may pay the speed of it.
    """

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    warmstart: Float[Array, " nv"]
    position: Float[Array, ""]


def names() -> list[str]:
    """Tasks of this room."""
    return sorted(TASKS)


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task; nothing is compiled. Errors are those of ``make``."""
    return make(name, options).spec


def make(name: str, options: TaskOptions) -> Environment:
    """A task by name.

    Args:
        name: one of ``names()``.
        options: of MJX. ``impl``: ``"jax"`` or, on NVIDIA and with warp-lang installed, ``"warp"``;
            ``naconmax``: needed by warp, room for the contacts of all simulated bodies together;
            ``solver``: ``"newton"`` or, often faster on a TPU, ``"cg"``, which wants more
            iterations; ``iterations`` and ``ls_iterations``: limits of the solver and of its line
            search. By default the solver follows C MuJoCo to the digits of float32.

    Raises:
        ValueError: if an option or its value is unknown; the message names the nearest.
    """
    task = TASKS[name]
    chosen = _checked(options)
    if chosen["impl"] == "warp" and task.contact_forces:
        raise ValueError(
            f"{name} observes contact forces, which MJX has for impl='jax' only, got impl='warp'"
        )
    with quiet():
        plan = mujoco.MjModel.from_xml_path(str(ASSETS / task.xml))
    plan.opt.solver = SOLVERS[chosen["solver"]]
    plan.opt.iterations = chosen["iterations"]
    plan.opt.ls_iterations = chosen["ls_iterations"]
    model = mjx.put_model(plan, impl=chosen["impl"])
    rest = mjx.make_data(plan, impl=chosen["impl"], naconmax=chosen.get("naconmax"))
    environment = _assemble(task, model, rest)
    low, high = plan.actuator_ctrlrange.T.astype(np.float32)
    _, observation = jax.eval_shape(environment[0], jax.random.key(0))
    made = TaskSpec(observation.size, low, high, task.horizon, terminates=task.terminates)
    return Environment(*environment, made)


def _assemble(task: Task, model: mjx.Model, rest: mjx.Data) -> tuple[Callable, Callable]:
    """``reset`` and ``step`` of one environment."""

    def state_of(data: mjx.Data) -> State:
        return State(data.qpos, data.qvel, data.qacc_warmstart, task.position(data))

    def observe(data: mjx.Data) -> Float[Array, " o"]:
        return jnp.concatenate([part(data) for part in task.observe])

    def reset(key: Key[Array, ""]) -> tuple[State, Float[Array, " o"]]:
        qpos, qvel = task.reset(key, rest.qpos, rest.qvel)
        # without contact forces, which Gymnasium's resets leave at zero
        with like_c():
            data = mjx.forward(model, rest.replace(qpos=qpos, qvel=qvel))
        return state_of(data), observe(data)

    def step(state: State, action: Float[Array, " a"]) -> Transition:
        data = rest.replace(
            qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=action
        )
        with like_c():
            data = jax.lax.fori_loop(0, task.frame_skip, lambda _, d: mjx.step(model, d), data)
        if task.contact_forces:
            data = mjx.rne_postconstraint(model, data)
        after = state_of(data)
        velocity = (after.position - state.position) / (model.opt.timestep * task.frame_skip)
        healthy = task.healthy(data)
        parts = [part(data, velocity, action) for part in task.reward]
        reward = sum(parts, start=task.alive * healthy)
        return Transition(after, observe(data), reward, ~healthy)

    return reset, step


def _checked(options: TaskOptions) -> dict[str, Any]:
    """The options over their defaults."""
    choices = {"impl": ["jax", "warp"], "solver": list(SOLVERS)}
    counts = ["iterations", "ls_iterations", "naconmax"]
    for key, value in options.items():
        if key in choices and value not in choices[key]:
            raise ValueError(f"{key} must be one of {', '.join(choices[key])}, got {value!r}")
        if key in counts and not (type(value) is int and value > 0):
            raise ValueError(f"{key} must be a positive integer, got {value!r}")
        if key not in (*choices, *counts):
            valid = [*choices, *counts]
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(f"MJX tasks have no option {key!r}; the nearest are {', '.join(near)}")
    chosen = DEFAULTS | options
    if (chosen["impl"] == "warp") != ("naconmax" in chosen):
        raise ValueError(
            "naconmax, the contacts of all simulated bodies together, goes with impl='warp', which "
            f"drops what does not fit; got impl={chosen['impl']!r}, "
            f"naconmax={chosen.get('naconmax')}; 16 a body is ample for a walker"
        )
    if chosen["impl"] == "warp" and importlib.util.find_spec("warp") is None:
        raise ValueError("impl='warp' needs the package warp-lang: pip install warp-lang")
    return chosen
