"""Gymnasium's MuJoCo tasks, version v5, simulated by MJX: the room for accelerators.

The same tasks, not look-alikes: the XML is the one inside the installed ``gymnasium`` package, and
frame skip, integrator, observation, reward, termination and reset noise are those of
``gymnasium/envs/mujoco/*_v5.py``. Only the arithmetic differs: float32 here, float64 there.
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
from jaxtyping import Array, Bool, Float, Key
from mujoco import mjx

from nesht_jax.envs.rollout import Environment, Transition
from nesht_jax.envs.task import TaskOptions, TaskSpec

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

SOLVERS = {"newton": mjx.SolverType.NEWTON, "cg": mjx.SolverType.CG}

# The XML's tolerance of 1e-8 is out of reach of float32, so its limits of 100 and 50 iterations
# would be spent to the last, 2 to 9 times slower for the same digits; Newton is done within 8.
DEFAULTS = {"impl": "jax", "solver": "newton", "iterations": 8, "ls_iterations": 8}

Draw = Callable[[Key[Array, ""], int], Float[Array, " n"]]
"""``(key, n)`` -> n random numbers."""

HORIZON = 1000
"""Steps of an episode, of every Gymnasium task below."""


class State(NamedTuple):
    """All that one step hands to the next; the rest of ``mjx.Data`` is a function of it.

    Attributes:
        qpos: generalized positions; SI units, as everything here.
        qvel: generalized velocities.
        warmstart: accelerations of the last substep, the constraint solver's first guess.
        position: where the body is; the reward pays the speed of it.
    """

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    warmstart: Float[Array, " nv"]
    position: Float[Array, "..."]


class Task(NamedTuple):
    """What makes a MuJoCo model a task. A step pays ``reward``, plus ``alive`` if healthy.

    Attributes:
        xml: file of the model, in Gymnasium's assets.
        frame_skip: substeps of the simulator in a step of the task.
        reset: ``(key, data at rest) -> (qpos, qvel)`` of a new episode.
        observe: what the policy sees of the data.
        position: of the body; its change over a step, by the step's length, is ``velocity``.
        reward: ``(data, velocity, action) -> reward`` of the step that led to ``data``.
        healthy: the episode terminates where it is false.
        alive: reward of a healthy step.
    """

    xml: str
    frame_skip: int
    reset: Callable[[Key[Array, ""], mjx.Data], tuple[Float[Array, " nq"], Float[Array, " nv"]]]
    observe: Callable[[mjx.Data], Float[Array, " o"]]
    position: Callable[[mjx.Data], Float[Array, "..."]]
    reward: Callable[
        [mjx.Data, Float[Array, "..."], Float[Array, " a"]],
        Float[Array, ""],
    ]
    healthy: Callable[[mjx.Data], Bool[Array, ""]]
    alive: float = 0.0


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
    plan = _load(ASSETS / task.xml)
    plan.opt.solver = SOLVERS[chosen["solver"]]
    plan.opt.iterations = chosen["iterations"]
    plan.opt.ls_iterations = chosen["ls_iterations"]
    model = mjx.put_model(plan, impl=chosen["impl"])
    rest = mjx.make_data(plan, impl=chosen["impl"], naconmax=chosen.get("naconmax"))
    environment = _assemble(task, model, rest)
    low, high = plan.actuator_ctrlrange.T.astype(np.float32)
    _, observation = jax.eval_shape(environment[0], jax.random.key(0))
    return Environment(*environment, TaskSpec(observation.size, low, high, HORIZON))


def _load(xml: Path) -> mujoco.MjModel:
    """The model, quietly: MuJoCo would log what it finds deprecated in Gymnasium's XML to a file
    in the working folder."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return mujoco.MjModel.from_xml_path(str(xml))
    finally:
        mujoco.set_mju_user_warning(before)


def _assemble(task: Task, model: mjx.Model, rest: mjx.Data) -> tuple[Callable, Callable]:
    """``reset`` and ``step`` of one environment."""

    def state_of(data: mjx.Data) -> State:
        return State(data.qpos, data.qvel, data.qacc_warmstart, task.position(data))

    def reset(key: Key[Array, ""]) -> tuple[State, Float[Array, " o"]]:
        qpos, qvel = task.reset(key, rest)
        data = mjx.forward(model, rest.replace(qpos=qpos, qvel=qvel))
        return state_of(data), task.observe(data)

    def step(state: State, action: Float[Array, " a"]) -> Transition:
        data = rest.replace(
            qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=action
        )
        data = jax.lax.fori_loop(0, task.frame_skip, lambda _, d: mjx.step(model, d), data)
        after = state_of(data)
        velocity = (after.position - state.position) / (model.opt.timestep * task.frame_skip)
        healthy = task.healthy(data)
        reward = task.reward(data, velocity, action) + task.alive * healthy
        return Transition(after, task.observe(data), reward, ~healthy)

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


def _uniform(scale: float) -> Draw:
    return lambda key, n: jax.random.uniform(key, (n,), minval=-scale, maxval=scale)


def _normal(scale: float) -> Draw:
    return lambda key, n: scale * jax.random.normal(key, (n,))


def _near_rest(position: Draw, velocity: Draw):
    """Reset to the model's rest, with noise on positions and velocities."""

    def reset(
        key: Key[Array, ""], rest: mjx.Data
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        position_key, velocity_key = jax.random.split(key)
        return (
            rest.qpos + position(position_key, rest.qpos.size),
            rest.qvel + velocity(velocity_key, rest.qvel.size),
        )

    return reset


def _posture(velocity_limit: float = jnp.inf):
    """Positions but the first, which is how far the body has come, and clipped velocities."""

    def observe(data: mjx.Data) -> Float[Array, " o"]:
        velocity = jnp.clip(data.qvel, -velocity_limit, velocity_limit)
        return jnp.concatenate([data.qpos[1:], velocity])

    return observe


def _forward(control_cost: float):
    """Reward v - c·|a|²: forward speed less the cost of control."""

    def reward(
        data: mjx.Data, velocity: Float[Array, "..."], action: Float[Array, " a"]
    ) -> Float[Array, ""]:
        return velocity - control_cost * jnp.sum(action**2)

    return reward


def _upright(height: tuple[float, float], angle: float, limit: float | None = None):
    """Torso height inside its bounds, |angle| and, if limited, every other |coordinate| below."""

    def healthy(data: mjx.Data) -> Bool[Array, ""]:
        z, tilt = data.qpos[1], data.qpos[2]
        upright = (height[0] < z) & (z < height[1]) & (jnp.abs(tilt) < angle)
        if limit is None:
            return upright
        return upright & jnp.all(jnp.abs(jnp.concatenate([data.qpos[2:], data.qvel])) < limit)

    return healthy


def _always(data: mjx.Data) -> Bool[Array, ""]:
    return jnp.asarray(True)


def _along_x(data: mjx.Data) -> Float[Array, ""]:
    return data.qpos[0]


TASKS = {
    "hopper": Task(
        xml="hopper.xml",
        frame_skip=4,
        reset=_near_rest(_uniform(5e-3), _uniform(5e-3)),
        observe=_posture(velocity_limit=10.0),
        position=_along_x,
        reward=_forward(control_cost=1e-3),
        healthy=_upright(height=(0.7, jnp.inf), angle=0.2, limit=100.0),
        alive=1.0,
    ),
    "walker2d": Task(
        xml="walker2d_v5.xml",
        frame_skip=4,
        reset=_near_rest(_uniform(5e-3), _uniform(5e-3)),
        observe=_posture(velocity_limit=10.0),
        position=_along_x,
        reward=_forward(control_cost=1e-3),
        healthy=_upright(height=(0.8, 2.0), angle=1.0),
        alive=1.0,
    ),
    "halfcheetah": Task(
        xml="half_cheetah.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(0.1), _normal(0.1)),
        observe=_posture(),
        position=_along_x,
        reward=_forward(control_cost=0.1),
        healthy=_always,
    ),
}
