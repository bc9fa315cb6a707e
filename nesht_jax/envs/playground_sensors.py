"""Names of what Playground's tasks show and take.

A task shows one array, put together in its own code: nothing tells what is where. Here stands how
the arrays of the Control Suite and of Go1, Apollo, Berkeley's humanoid, G1 and T1 are put together,
and joints and motors have the names of the model. Other robots, which show several steps at once,
and hands and arms have no names.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from nesht_jax.envs import sensors
from nesht_jax.envs.sensors import AXES, FREE_RATES, Names

JOINT = 0
"""MuJoCo's ``mjTRN_JOINT``: a motor that moves a joint."""

Layout = Callable[[Any, tuple[str, ...]], Iterable[str]]
"""(MuJoCo's model, names of its motors) -> names of the features in their order."""


def names_of(task: Any, *, num_features: int) -> Names:
    """Tells the names of a task; none where it shows another number of features than is known.

    Args:
        task: environment of Playground.
        num_features: features of its observation.
    """
    layout = LAYOUTS.get(".".join(type(task).__module__.split(".")[-2:]))
    if layout is None:
        return Names()
    model = task.mj_model
    motors = tuple(_motor(model, i) for i in range(model.nu))
    features = tuple(layout(model, motors))
    if type(task).__module__.endswith(".finger"):  # one that turns shows its target too
        features = features[:num_features]
    return Names(features, motors) if len(features) == num_features else Names()


def _motor(model: Any, i: int) -> str:
    if model.actuator_trntype[i] == JOINT:
        return _words(model.joint(model.actuator_trnid[i, 0]).name)
    return _words(model.actuator(i).name)


def _words(name: str) -> str:
    return name.removesuffix("_joint").replace("_", " ")


def _joints(model: Any, *, after: int) -> tuple[str, ...]:
    """The joints of the model in its order, but for the first ones, which carry the whole body."""
    return tuple(_words(model.joint(i).name) for i in range(after, model.njnt))


def _bodies(model: Any) -> tuple[str, ...]:
    return tuple(_words(model.body(i).name) for i in range(1, model.nbody))


def _rates(joints: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{joint} rate" for joint in joints)


def _along(*whats: str, axes: Iterable[str] = AXES) -> tuple[str, ...]:
    return tuple(f"{what} {axis}" for what, axis in product(whats, tuple(axes)))


# ---------------------------------------------------------------------------- the Control Suite


def _fixed(*features: str) -> Layout:
    return lambda model, motors: features


def _cheetah(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    return sensors.planar(*_joints(model, after=3)).features


def _fish(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    joints = _joints(model, after=1)
    return ("upright", *joints, *_along("mouth to target"), *FREE_RATES, *_rates(joints))


def _hopper(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    planar = sensors.planar(*_joints(model, after=3)).features
    return (*planar, "toe touch", "heel touch")


def _humanoid(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    joints = _joints(model, after=1)
    limbs = _along("left hand", "left foot", "right hand", "right foot")
    body = ("head height", *limbs, *_along("torso up", "center of mass velocity"))
    return (*joints, *body, *FREE_RATES, *_rates(joints))


def _swimmer(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    bodies = [body for body in _bodies(model) if body != "target"]
    speeds = ("x velocity", "y velocity", "turn rate")
    return (
        *_joints(model, after=3),
        *_along("target", axes="xy"),
        *(f"{body} {speed}" for body, speed in product(bodies, speeds)),
    )


def _walker(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
    angles = (f"{what} {body}" for body, what in product(_bodies(model), ("cosine", "sine")))
    speeds = ("vertical velocity", "forward velocity", "pitch rate")
    return (*angles, "upright", *speeds, *_rates(_joints(model, after=3)))


# --------------------------------------------------------------------------------------- robots

PARTS = {
    "velocity": _along("velocity"),
    "gyro": ("roll rate", "pitch rate", "yaw rate"),
    "gravity": _along("gravity"),
    "command": ("commanded velocity x", "commanded velocity y", "commanded yaw rate"),
    "phase": ("cosine phase 1", "cosine phase 2", "sine phase 1", "sine phase 2"),
}
"""Parts of what a robot shows that are the same for all of them."""


def _robot(*parts: str) -> Layout:
    """A robot that shows these parts in this order, its joints less their default pose."""

    def layout(model: Any, motors: tuple[str, ...]) -> Iterable[str]:
        joints = _joints(model, after=1)
        own = {
            "joints": joints,
            "rates": _rates(joints),
            "actions": tuple(f"last action {motor}" for motor in motors),
        }
        return (name for part in parts for name in (PARTS | own)[part])

    return layout


_BIPED = _robot(
    *("velocity", "gyro", "gravity", "command", "joints", "rates", "actions", "phase"),
)
_MOVED = ("joints", "rates", "actions")

LAYOUTS: dict[str, Layout] = {
    "dm_control_suite.acrobot": _fixed(
        *("sine upper arm", "sine lower arm", "cosine upper arm", "cosine lower arm"),
        *("shoulder rate", "elbow rate"),
    ),
    "dm_control_suite.ball_in_cup": _fixed(
        *("cup x", "cup z", "ball x", "ball z"),
        *("cup x velocity", "cup z velocity", "ball x velocity", "ball z velocity"),
    ),
    "dm_control_suite.cartpole": _fixed(
        "cart position", "cosine pole", "sine pole", "cart velocity", "pole rate"
    ),
    "dm_control_suite.cheetah": _cheetah,
    "dm_control_suite.finger": _fixed(
        *("proximal", "distal", "tip x", "tip z"),
        *("proximal rate", "distal rate", "spinner rate", "top touch", "bottom touch"),
        *("target x", "target z", "distance to target"),
    ),
    "dm_control_suite.fish": _fish,
    "dm_control_suite.hopper": _hopper,
    "dm_control_suite.humanoid": _humanoid,
    "dm_control_suite.pendulum": _fixed("sine", "cosine", "rate"),
    "dm_control_suite.point_mass": _fixed("x", "y", "x velocity", "y velocity"),
    "dm_control_suite.reacher": _fixed(
        "shoulder", "wrist", *_along("finger to target", axes="xy"), "shoulder rate", "wrist rate"
    ),
    "dm_control_suite.swimmer": _swimmer,
    "dm_control_suite.walker": _walker,
    "go1.joystick": _robot("velocity", "gyro", "gravity", *_MOVED, "command"),
    "go1.getup": _robot("gyro", "gravity", *_MOVED),
    "go1.handstand": _robot("velocity", "gyro", "gravity", *_MOVED),
    "apollo.joystick": _BIPED,
    "berkeley_humanoid.joystick": _BIPED,
    "g1.joystick": _BIPED,
    "t1.joystick": _BIPED,
}
"""Module of a task, with its folder -> how what the task shows is put together."""
