"""Gymnasium's MuJoCo tasks, version v5, simulated by MJX: the suite for accelerators.

The same tasks, not look-alikes: the XML is the one inside the installed ``gymnasium`` package, and
frame skip, integrator, observation, reward, termination and reset noise are those of
``gymnasium/envs/mujoco/*_v5.py``. Only the arithmetic differs: float32 here, float64 there;
Newton's solver for the humanoids, whose XML asks for PGS, which MJX lacks; and where the pusher's
fork touches its object, MJX searches for the point of contact in ten steps of gradient descent,
and errors are up to some 1e-3.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled bindings have no type stubs.

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco import mjx

from nesht_jax.envs.mjx_contacts import c_mujoco_contacts
from nesht_jax.envs.mjx_tasks import TASKS, Rules
from nesht_jax.envs.silence import silence_mujoco
from nesht_jax.envs.simulator import as_environment, refuse_unknown, under_jax_defaults
from nesht_jax.envs.suite import Suite, TaskOptions, Transition, alive_bonus
from nesht_jax.types import Task

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

SOLVERS = {"newton": mjx.SolverType.NEWTON, "cg": mjx.SolverType.CG}

# The XML's tolerance of 1e-8 is out of reach of float32, so its limits of 100 and 50 iterations
# would be spent to the last, 2 to 9 times slower for the same digits; Newton is done within 8.
DEFAULTS = {"impl": "jax", "solver": "newton", "iterations": 8, "ls_iterations": 8}


class State(NamedTuple):
    """All that one step hands to the next; the rest of ``mjx.Data`` a step computes anew.

    Attributes:
        qpos: generalized positions, in m and rad.
        qvel: generalized velocities, in m/s and rad/s.
        warmstart: accelerations of the last substep, the constraint solver's first guess.
        position: how far the body has come, in m; the reward may pay the speed of it.
    """

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    warmstart: Float[Array, " nv"]
    position: Float[Array, ""]


class Simulator(NamedTuple):
    """What simulates all episodes of a task.

    Attributes:
        model: body and world, on the device.
        rest: data of the model at rest, where every step begins to write.
    """

    model: mjx.Model
    rest: mjx.Data


def names() -> list[str]:
    """Lists the tasks of this suite."""
    return sorted(TASKS)


@under_jax_defaults
def make(name: str, options: TaskOptions) -> Task:
    """Makes a task; nothing is compiled.

    Args:
        name: one of ``names()``.
        options: options of MJX. ``impl``: ``"jax"`` or, on NVIDIA and with warp-lang installed,
            ``"warp"``; ``naconmax``: space for the contacts of all bodies together, for warp;
            ``solver``: ``"newton"`` or, often faster on a TPU, ``"cg"``, which wants more
            iterations; ``iterations`` and ``ls_iterations``: limits of the solver and of its line
            search. By default the solver follows C MuJoCo to the digits of float32.

    Raises:
        ValueError: if an option or its value is unknown; the message names the nearest.
    """
    rules, full_name = TASKS[name], f"mjx/{name}"
    chosen = _chosen(full_name, options)
    if chosen["impl"] == "warp" and rules.contact_forces:
        raise ValueError(
            f"{full_name} observes contact forces, which MJX has for impl='jax' only, got "
            "impl='warp'"
        )
    simulator, (low, high) = put(rules, chosen)
    return Task(
        name=full_name,
        options=options,
        observation_size=jax.eval_shape(lambda data: observe(rules, data), simulator.rest).size,
        action_low=low,
        action_high=high,
        discrete=False,
        horizon=rules.horizon,
        terminates=rules.terminates,
        alive_bonus=alive_bonus(name, rules.alive),
        simulator=as_environment(partial(reset, rules, simulator), partial(step, rules, simulator)),
    )


def put(rules: Rules, chosen: dict[str, Any]) -> tuple[Simulator, Float[np.ndarray, "2 a"]]:
    """Puts the model of a task on the device; gives the bounds of actions too."""
    with silence_mujoco():
        model = mujoco.MjModel.from_xml_path(str(ASSETS / rules.xml))
    model.opt.solver = SOLVERS[chosen["solver"]]
    model.opt.iterations = chosen["iterations"]
    model.opt.ls_iterations = chosen["ls_iterations"]
    impl, naconmax = chosen["impl"], chosen.get("naconmax")
    simulator = Simulator(
        mjx.put_model(model, impl=impl), mjx.make_data(model, impl=impl, naconmax=naconmax)
    )
    return simulator, model.actuator_ctrlrange.T.astype(np.float32)


def reset(
    rules: Rules, simulator: Simulator, key: Key[Array, ""]
) -> tuple[State, Float[Array, " o"]]:
    """Begins an episode: ``Environment.reset`` of a task with these rules."""
    model, rest = simulator
    qpos, qvel = rules.reset(key, rest.qpos, rest.qvel)
    # no rne_postconstraint here: Gymnasium's resets leave contact forces at zero
    with c_mujoco_contacts():
        data = mjx.forward(model, rest.replace(qpos=qpos, qvel=qvel))
    return state_of(rules, data), observe(rules, data)


def step(
    rules: Rules, simulator: Simulator, state: State, action: Float[Array, " a"]
) -> Transition:
    """Does one step: ``Environment.step`` of a task with these rules."""
    data = simulate(rules, simulator, state, action)
    return transition(rules, simulator, state, action, data)


def simulate(
    rules: Rules, simulator: Simulator, state: State, action: Float[Array, " a"]
) -> mjx.Data:
    """Gives the data after the substeps of one step."""
    model, rest = simulator
    data = rest.replace(
        qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=action
    )
    with c_mujoco_contacts():
        data = jax.lax.fori_loop(0, rules.frame_skip, lambda _, d: mjx.step(model, d), data)
    return mjx.rne_postconstraint(model, data) if rules.contact_forces else data


def transition(
    rules: Rules, simulator: Simulator, state: State, action: Float[Array, " a"], data: mjx.Data
) -> Transition:
    """Says what a step brings, by the state before it, its action and the data after it."""
    after = state_of(rules, data)
    duration = simulator.model.opt.timestep * rules.frame_skip
    velocity = (after.position - state.position) / duration
    healthy = rules.healthy(data)
    parts = [part(data, velocity, action) for part in rules.reward]
    reward = sum(parts, start=rules.alive * healthy)
    return Transition(after, observe(rules, data), reward, ~healthy)


def state_of(rules: Rules, data: mjx.Data) -> State:
    """Keeps of the data what the next step needs."""
    return State(data.qpos, data.qvel, data.qacc_warmstart, rules.position(data))


def observe(rules: Rules, data: mjx.Data) -> Float[Array, " o"]:
    """Joins the parts of the observation."""
    return jnp.concatenate([part(data) for part in rules.observe])


def _chosen(full_name: str, options: TaskOptions) -> dict[str, Any]:
    """The options over their defaults."""
    choices = {"impl": ["jax", "warp"], "solver": list(SOLVERS)}
    counts = ["iterations", "ls_iterations", "naconmax"]
    refuse_unknown(full_name, options, [*choices, *counts])
    for key, value in options.items():
        if key in choices and value not in choices[key]:
            valid = ", ".join(choices[key])
            raise ValueError(f"{full_name}: {key} must be one of {valid}, got {value!r}")
        if key in counts and not (type(value) is int and value > 0):
            raise ValueError(f"{full_name}: {key} must be a positive integer, got {value!r}")
    chosen = DEFAULTS | options
    if (chosen["impl"] == "warp") != ("naconmax" in chosen):
        raise ValueError(
            f"{full_name}: naconmax, the contacts of all simulated bodies together, goes with "
            f"impl='warp', which drops what does not fit; got impl={chosen['impl']!r}, "
            f"naconmax={chosen.get('naconmax')}; 16 a body is ample for a walker"
        )
    if chosen["impl"] == "warp" and importlib.util.find_spec("warp") is None:
        raise ValueError(
            f"{full_name}: impl='warp' needs the package warp-lang: pip install warp-lang"
        )
    return chosen


SUITE = Suite(names=names, make=make)
