"""Names of what bodies sense and of what they do, where the simulators tell none.

Gymnasium's MuJoCo, classic control and Box2D tasks, in whatever suite they are played; those of
MuJoCo Playground are told by ``playground_sensors``.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

from nesht_jax.envs.catalog import canonical

AXES = ("x", "y", "z")
QUATERNION = ("orientation w", "orientation x", "orientation y", "orientation z")
FREE_RATES = (
    *(f"{axis} velocity" for axis in AXES),
    *("roll rate", "pitch rate", "yaw rate"),
)


class Names(NamedTuple):
    """Names of a task, each in words.

    Attributes:
        features: names of the features of an observation.
        actions: names of the components of an action, or of its choices.
    """

    features: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


def names_of(task: str, *, num_features: int, num_actions: int) -> Names:
    """Tells the names of a task; none where it has others sizes than the task that is known.

    Args:
        task: name of the task without its suite, as ``"Hopper-v5"`` or ``"inverted_pendulum"``.
        num_features: features of its observation.
        num_actions: components of its action, or choices.
    """
    known, _ = canonical(task)
    if known not in TASKS:
        return Names()
    features, actions = TASKS[known](num_features)
    return Names(
        features if len(features) == num_features else (),
        actions if len(actions) == num_actions else (),
    )


# ------------------------------------------------------------------------------------ MuJoCo


def _rates(joints: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{joint} rate" for joint in joints)


def planar(*joints: str) -> Names:
    """A body in the plane of x and z, whose place along x is not shown."""
    speeds = ("forward velocity", "vertical velocity", "pitch rate")
    return Names(("height", "pitch", *joints, *speeds, *_rates(joints)), joints)


def _swimmer() -> Names:
    joints = ("first joint", "second joint")
    speeds = ("x velocity", "y velocity", "heading rate")
    return Names(("heading", *joints, *speeds, *_rates(joints)), joints)


def _forces(bodies: Iterable[str]) -> tuple[str, ...]:
    """Contact forces on each body, the torque first."""
    return tuple(f"{b} {what} {x}" for b, what, x in product(bodies, ("torque", "force"), AXES))


def _ant(num_features: int) -> Names:
    legs = ("front left", "front right", "back left", "back right")
    joints = tuple(map(" ".join, product(legs, ("hip", "ankle"))))
    parts = ("leg root", "upper leg", "lower leg")
    bodies = ("torso", *map(" ".join, product(legs, parts)))
    moved = ("height", *QUATERNION, *joints, *FREE_RATES, *_rates(joints))
    shown = moved if num_features == len(moved) else moved + _forces(bodies)
    return Names(shown, joints[-2:] + joints[:-2])


def _humanoid(num_features: int) -> Names:
    """v4 has more than the 348 features of v5: also the world's and the root's, which are 0."""
    abdomen = ("abdomen yaw", "abdomen pitch", "abdomen roll")
    sides = ("right", "left")
    hips = product(sides, ("hip roll", "hip yaw", "hip pitch", "knee"))
    arms = product(sides, ("shoulder 1", "shoulder 2", "elbow"))
    joints = (*abdomen, *map(" ".join, hips), *map(" ".join, arms))
    legs = product(sides, ("thigh", "shin", "foot"))
    limbs = product(sides, ("upper arm", "lower arm"))
    bodies = ("torso", "lower waist", "pelvis", *map(" ".join, legs), *map(" ".join, limbs))
    inertia = ("xx", "yy", "zz", "xy", "xz", "yz")
    masses = (*(f"inertia {i}" for i in inertia), *(f"mass times {x}" for x in AXES), "mass")
    speeds = (*(f"angular velocity {x}" for x in AXES), *(f"velocity {x}" for x in AXES))
    forces = tuple(f"{joint} torque" for joint in joints)
    if num_features > 348:
        bodies = ("world", *bodies)
        forces = (*(f"root force {x}" for x in AXES), *(f"root torque {x}" for x in AXES), *forces)
    moved = ("height", *QUATERNION, *joints, *FREE_RATES, *_rates(joints))
    each = (f"{b} {what}" for part in (masses, speeds) for b, what in product(bodies, part))
    actions = (abdomen[1], abdomen[0], *joints[2:])
    return Names((*moved, *each, *forces, *_forces(bodies)), actions)


def _double_pendulum(num_features: int) -> Names:
    joints = ("first pole", "second pole")
    angles = (f"{function} {joint}" for function, joint in product(("sine", "cosine"), joints))
    forces = ("cart force", *(f"{joint} force" for joint in joints))
    shown = ("cart position", *angles, "cart velocity", *_rates(joints), *forces)
    return Names(shown[:num_features], ("cart force",))


def _reacher(num_features: int) -> Names:
    joints = ("shoulder", "elbow")
    angles = (f"{function} {joint}" for function, joint in product(("cosine", "sine"), joints))
    shown = (
        *angles,
        *(f"target {axis}" for axis in AXES[:2]),
        *_rates(joints),
        *(f"fingertip less target {axis}" for axis in AXES),
    )
    return Names(shown[:num_features], joints)


def _pusher() -> Names:
    joints = (
        *("shoulder pan", "shoulder lift", "upper arm roll", "elbow flex", "forearm roll"),
        *("wrist flex", "wrist roll"),
    )
    places = (f"{what} {axis}" for what, axis in product(("fingertip", "object", "goal"), AXES))
    return Names((*joints, *_rates(joints), *places), joints)


# ---------------------------------------------------------------- classic control and Box2D


def _bipedal_walker() -> Names:
    hull = ("pitch", "pitch rate", "x velocity", "y velocity")
    leg = ("hip {0}", "hip {0} rate", "knee {0}", "knee {0} rate", "foot {0} contact")
    legs = (name.format(number) for number, name in product((1, 2), leg))
    distances = (f"distance {i}" for i in range(1, 11))
    return Names((*hull, *legs, *distances), ("hip 1", "knee 1", "hip 2", "knee 2"))


def _always(names: Names) -> Callable[[int], Names]:
    return lambda num_features: names


_POLE = ("cart position", "cart velocity", "pole angle", "pole rate")
_ACROBOT = ("cosine first", "sine first", "cosine second", "sine second", "first rate")
_LANDER = (
    *("x", "y", "x velocity", "y velocity", "pitch", "pitch rate"),
    *("left contact", "right contact"),
)
_CHEETAH = product(("back", "front"), ("thigh", "shin", "foot"))
_WALKER = product(("right", "left"), ("thigh", "leg", "foot"))

TASKS: dict[str, Callable[[int], Names]] = {
    "hopper": _always(planar("thigh", "leg", "foot")),
    "halfcheetah": _always(planar(*map(" ".join, _CHEETAH))),
    "walker2d": _always(planar(*map(" ".join, _WALKER))),
    "swimmer": _always(_swimmer()),
    "ant": _ant,
    "humanoid": _humanoid,
    "humanoidstandup": _humanoid,
    "invertedpendulum": _always(
        Names(("cart position", "pole angle", "cart velocity", "pole rate"), ("cart force",))
    ),
    "inverteddoublependulum": _double_pendulum,
    "reacher": _reacher,
    "pusher": _always(_pusher()),
    "cartpole": _always(Names(_POLE, ("left", "right"))),
    "acrobot": _always(Names((*_ACROBOT, "second rate"), ("torque -1", "none", "torque +1"))),
    "pendulum": _always(Names(("cosine", "sine", "rate"), ("torque",))),
    "mountaincar": _always(Names(("position", "velocity"), ("left", "none", "right"))),
    "mountaincarcontinuous": _always(Names(("position", "velocity"), ("force",))),
    "lunarlander": _always(Names(_LANDER, ("none", "left engine", "main engine", "right engine"))),
    "lunarlandercontinuous": _always(Names(_LANDER, ("main engine", "side engines"))),
    "bipedalwalker": _always(_bipedal_walker()),
    "bipedalwalkerhardcore": _always(_bipedal_walker()),
}
"""Name of a task, in lower case and without version -> its names, for a number of features."""
