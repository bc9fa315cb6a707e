"""The tasks of ``gymnasium/envs/mujoco/*_v5.py`` with their default arguments, as a table.

Observation, reward and termination of a step are read from the data as the last substep leaves
them: positions and velocities integrated, but all that derives from them (positions of bodies and
sites, inertias, contact forces) as of the forward pass before. Gymnasium does the same.
"""

# pyright: reportAttributeAccessIssue=false
# MJX names its back ends' data in a union of which only one member has inertias and forces.

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key
from mujoco import mjx

Draw = Callable[[Key[Array, ""], int], Float[Array, " n"]]
"""``(key, n)`` -> n random numbers, what is added to a coordinate each."""

Reset = Callable[
    [Key[Array, ""], Float[Array, " nq"], Float[Array, " nv"]],
    tuple[Float[Array, " nq"], Float[Array, " nv"]],
]
"""``(key, qpos, qvel)``, positions and velocities of the model at rest -> positions and velocities
that begin an episode."""

Observe = Callable[[mjx.Data], Float[Array, " o"]]
"""data -> a part of the observation."""

Position = Callable[[mjx.Data], Float[Array, ""]]
"""data -> how far the body has come, in m."""

Reward = Callable[[mjx.Data, Float[Array, ""], Float[Array, " a"]], Float[Array, ""]]
"""``(data, velocity, action)`` -> a part of the reward of the step that led to ``data``; velocity
in m/s."""

Healthy = Callable[[mjx.Data], Bool[Array, ""]]
"""data -> whether the episode goes on."""


def _along_x(data: mjx.Data) -> Float[Array, ""]:
    return data.qpos[0]


def _torso_along_x(data: mjx.Data) -> Float[Array, ""]:
    return data.xpos[1, 0]


def _mass_center_along_x(data: mjx.Data) -> Float[Array, ""]:
    return data.subtree_com[0, 0]


def _always(data: mjx.Data) -> Bool[Array, ""]:
    return jnp.asarray(True)


class Rules(NamedTuple):
    """What makes a MuJoCo model a task.

    Attributes:
        xml: file name of the model, in Gymnasium's assets.
        frame_skip: number of simulator substeps in a step of the task.
        reset: distribution of the first state, noise on the model's rest.
        observe: parts of the observation, in their order.
        reward: parts of a step's reward, which is their sum, plus ``alive`` where healthy.
        healthy: predicate whose failure terminates the episode.
        alive: part of the reward that a healthy step pays.
        position: coordinate in m whose change over a step, divided by the step's duration, is the
            ``velocity`` that ``reward`` is given.
        contact_forces: whether ``cfrc_ext`` is read, which MJX computes only if asked.
        horizon: number of steps after which an episode is cut.
    """

    xml: str
    frame_skip: int
    reset: Reset
    observe: tuple[Observe, ...]
    reward: tuple[Reward, ...]
    healthy: Healthy = _always
    alive: float = 0.0
    position: Position = _along_x
    contact_forces: bool = False
    horizon: int = 1000

    @property
    def terminates(self) -> bool:
        """Whether an episode may end before its horizon."""
        return self.healthy is not _always


# ------------------------------------------------------------------------------------------ resets


def _uniform(scale: float) -> Draw:
    return lambda key, n: jax.random.uniform(key, (n,), minval=-scale, maxval=scale)


def _normal(scale: float) -> Draw:
    return lambda key, n: scale * jax.random.normal(key, (n,))


def _zero(key: Key[Array, ""], n: int) -> Float[Array, " n"]:
    return jnp.zeros(n)


def _near_rest(position: Draw, velocity: Draw) -> Reset:
    """Adds noise to positions and velocities at rest."""

    def reset(key, qpos, qvel):
        position_key, velocity_key = jax.random.split(key)
        return (
            qpos + position(position_key, qpos.size),
            qvel + velocity(velocity_key, qvel.size),
        )

    return reset


def _placed(near_rest: Reset, place: Callable[[Key[Array, ""]], Float[Array, " p"]]) -> Reset:
    """Resets by ``near_rest``, but puts the last coordinates, those of objects, at a place of their
    own, where they stand still."""

    def reset(key, qpos, qvel):
        rest_key, place_key = jax.random.split(key)
        qpos, qvel = near_rest(rest_key, qpos, qvel)
        placed = place(place_key)
        return qpos.at[-placed.size :].set(placed), qvel.at[-placed.size :].set(0.0)

    return reset


def _rejection(
    key: Key[Array, ""],
    low: tuple[float, float],
    high: tuple[float, float],
    accept: Callable[[Float[Array, ""]], Bool[Array, ""]],
) -> Float[Array, "2"]:
    """Draws a point, uniform where a rectangle lies at an accepted distance from 0."""
    minval, maxval = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)

    def again(carry):
        key, _ = carry
        key, draw = jax.random.split(key)
        return key, jax.random.uniform(draw, (2,), minval=minval, maxval=maxval)

    def rejected(carry):
        return ~accept(jnp.linalg.norm(carry[1]))

    return jax.lax.while_loop(rejected, again, again((key, minval)))[1]


def _in_reach(key: Key[Array, ""]) -> Float[Array, "2"]:
    """Draws the place of the reacher's target, in a disc."""
    return _rejection(key, (-0.2, -0.2), (0.2, 0.2), lambda distance: distance < 0.2)


def _off_goal(key: Key[Array, ""]) -> Float[Array, "4"]:
    """Draws the place of the pusher's object, to one side of its goal and not touching it; then
    comes the goal's, 0."""
    point = _rejection(key, (-0.3, -0.2), (0.0, 0.2), lambda distance: distance > 0.17)
    return jnp.concatenate([point, jnp.zeros(2)])


# ------------------------------------------------------------------------------------ observations


def _positions(data: mjx.Data) -> Float[Array, " nq"]:
    return data.qpos


def _velocities(data: mjx.Data) -> Float[Array, " nv"]:
    return data.qvel


def _positions_but(first: int) -> Observe:
    """Positions without the first ones, which say only how far the body has come."""
    return lambda data: data.qpos[first:]


def _clipped_velocities(data: mjx.Data) -> Float[Array, " nv"]:
    return jnp.clip(data.qvel, -10.0, 10.0)


def _joints(stop: int) -> Observe:
    """Positions, then velocities, of the joints before ``stop``."""
    return lambda data: jnp.concatenate([data.qpos[:stop], data.qvel[:stop]])


def _inertias(data: mjx.Data) -> Float[Array, " i"]:
    """Inertia and mass of each body but the world, about the center of mass of its tree."""
    return data._impl.cinert[1:].ravel()


def _body_velocities(data: mjx.Data) -> Float[Array, " v"]:
    """Velocity of each body but the world, about the center of mass of its tree."""
    return data.cvel[1:].ravel()


def _actuator_forces(data: mjx.Data) -> Float[Array, " a"]:
    """Actuator forces on the joints, which follow the six coordinates of the free root."""
    return data.qfrc_actuator[6:]


def _contact_forces(limit: float = jnp.inf) -> Observe:
    """External force and torque on each body but the world, clipped."""
    return lambda data: jnp.clip(data._impl.cfrc_ext[1:].ravel(), -limit, limit)


def _constraint_on_cart(data: mjx.Data) -> Float[Array, "1"]:
    return jnp.clip(data.qfrc_constraint[:1], -10.0, 10.0)


def _angles(function: Callable, angles: slice) -> Observe:
    return lambda data: function(data.qpos[angles])


def _bodies(*bodies: int) -> Observe:
    return lambda data: data.xpos[jnp.array(bodies)].ravel()


# ----------------------------------------------------------------------------------------- rewards


def _forward(weight: float = 1.0) -> Reward:
    return lambda data, velocity, action: weight * velocity


def _control(cost: float) -> Reward:
    """-c·|a|² of the action as it is given: the simulator clips it to its bounds, the cost does
    not."""
    return lambda data, velocity, action: -cost * jnp.sum(action**2)


def _contact(cost: float, *, force: float = jnp.inf, most: float = jnp.inf) -> Reward:
    """-c·|f|² of the external forces on all bodies: each is clipped to ±``force``, then the cost to
    ``most``."""

    def reward(data, velocity, action):
        forces = jnp.clip(data._impl.cfrc_ext, -force, force)
        return -jnp.minimum(cost * jnp.sum(forces**2), most)

    return reward


def _height(weight: float) -> Reward:
    return lambda data, velocity, action: weight * data.qpos[2]


def _distance(weight: float, body: int, other: int) -> Reward:
    """-w·|x_body - x_other|."""

    def reward(data, velocity, action):
        return -weight * jnp.linalg.norm(data.xpos[body] - data.xpos[other])

    return reward


def _tip_on_top(data: mjx.Data, velocity, action) -> Float[Array, ""]:
    x, _, y = data.site_xpos[0]
    _, v1, v2 = data.qvel
    return -0.01 * x**2 - (y - 2.0) ** 2 - 1e-3 * v1**2 - 5e-3 * v2**2


# ------------------------------------------------------------------------------------ terminations


def _upright(height: tuple[float, float], angle: float, limit: float | None = None) -> Healthy:
    """Healthy while the torso's height is inside its bounds, |tilt| below ``angle`` and, if a limit
    is given, every other |coordinate|, velocities included, below it."""

    def healthy(data):
        z, tilt = data.qpos[1], data.qpos[2]
        upright = (height[0] < z) & (z < height[1]) & (jnp.abs(tilt) < angle)
        if limit is None:
            return upright
        return upright & jnp.all(jnp.abs(jnp.concatenate([data.qpos[2:], data.qvel])) < limit)

    return healthy


def _torso_between(low: float, high: float) -> Healthy:
    return lambda data: (low < data.qpos[2]) & (data.qpos[2] < high)


def _finite(data: mjx.Data) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(data.qpos)) & jnp.all(jnp.isfinite(data.qvel))


def _ant_is_healthy(data: mjx.Data) -> Bool[Array, ""]:
    """Healthy between two heights, which are healthy too, unlike the humanoid's bounds."""
    return _finite(data) & (0.2 <= data.qpos[2]) & (data.qpos[2] <= 1.0)


def _pole_up(data: mjx.Data) -> Bool[Array, ""]:
    return _finite(data) & (jnp.abs(data.qpos[1]) <= 0.2)


def _tip_up(data: mjx.Data) -> Bool[Array, ""]:
    return data.site_xpos[0, 2] > 1.0


FINGERTIP, TARGET = 3, 4
"""Bodies of ``reacher.xml``."""

ARM_TIP, OBJECT, GOAL = 10, 11, 12
"""Bodies of ``pusher_v5.xml``."""

HUMANOID_PARTS = (
    _positions_but(2),
    _velocities,
    _inertias,
    _body_velocities,
    _actuator_forces,
    _contact_forces(),
)

TASKS = {
    "hopper": Rules(
        xml="hopper.xml",
        frame_skip=4,
        reset=_near_rest(_uniform(5e-3), _uniform(5e-3)),
        observe=(_positions_but(1), _clipped_velocities),
        reward=(_forward(), _control(1e-3)),
        healthy=_upright(height=(0.7, jnp.inf), angle=0.2, limit=100.0),
        alive=1.0,
    ),
    "walker2d": Rules(
        xml="walker2d_v5.xml",
        frame_skip=4,
        reset=_near_rest(_uniform(5e-3), _uniform(5e-3)),
        observe=(_positions_but(1), _clipped_velocities),
        reward=(_forward(), _control(1e-3)),
        healthy=_upright(height=(0.8, 2.0), angle=1.0),
        alive=1.0,
    ),
    "halfcheetah": Rules(
        xml="half_cheetah.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(0.1), _normal(0.1)),
        observe=(_positions_but(1), _velocities),
        reward=(_forward(), _control(0.1)),
    ),
    "ant": Rules(
        xml="ant.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(0.1), _normal(0.1)),
        observe=(_positions_but(2), _velocities, _contact_forces(limit=1.0)),
        reward=(_forward(), _control(0.5), _contact(5e-4, force=1.0)),
        healthy=_ant_is_healthy,
        alive=1.0,
        position=_torso_along_x,
        contact_forces=True,
    ),
    "humanoid": Rules(
        xml="humanoid.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(1e-2), _uniform(1e-2)),
        observe=HUMANOID_PARTS,
        reward=(_forward(1.25), _control(0.1), _contact(5e-7, most=10.0)),
        healthy=_torso_between(1.0, 2.0),
        alive=5.0,
        position=_mass_center_along_x,
        contact_forces=True,
    ),
    "humanoidstandup": Rules(
        xml="humanoidstandup.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(1e-2), _uniform(1e-2)),
        observe=HUMANOID_PARTS,
        # Gymnasium divides the height by the duration of a substep, 0.003 s, not of a step
        reward=(_height(1 / 0.003), _control(0.1), _contact(5e-7, most=10.0)),
        alive=1.0,
        contact_forces=True,
    ),
    "swimmer": Rules(
        xml="swimmer.xml",
        frame_skip=4,
        reset=_near_rest(_uniform(0.1), _uniform(0.1)),
        observe=(_positions_but(2), _velocities),
        reward=(_forward(), _control(1e-4)),
    ),
    "reacher": Rules(
        xml="reacher.xml",
        frame_skip=2,
        reset=_placed(_near_rest(_uniform(0.1), _uniform(5e-3)), _in_reach),
        observe=(
            _angles(jnp.cos, slice(2)),
            _angles(jnp.sin, slice(2)),
            _positions_but(2),
            lambda data: data.qvel[:2],
            lambda data: (data.xpos[FINGERTIP] - data.xpos[TARGET])[:2],
        ),
        reward=(_distance(1.0, FINGERTIP, TARGET), _control(1.0)),
        horizon=50,
    ),
    "pusher": Rules(
        xml="pusher_v5.xml",
        frame_skip=5,
        reset=_placed(_near_rest(_zero, _uniform(5e-3)), _off_goal),
        observe=(_joints(7), _bodies(ARM_TIP, OBJECT, GOAL)),
        reward=(
            _distance(0.5, OBJECT, ARM_TIP),
            _distance(1.0, OBJECT, GOAL),
            _control(0.1),
        ),
        horizon=100,
    ),
    "inverted_pendulum": Rules(
        xml="inverted_pendulum.xml",
        frame_skip=2,
        reset=_near_rest(_uniform(0.01), _uniform(0.01)),
        observe=(_positions, _velocities),
        reward=(),
        healthy=_pole_up,
        alive=1.0,
    ),
    "inverted_double_pendulum": Rules(
        xml="inverted_double_pendulum.xml",
        frame_skip=5,
        reset=_near_rest(_uniform(0.1), _normal(0.1)),
        observe=(
            lambda data: data.qpos[:1],
            _angles(jnp.sin, slice(1, None)),
            _angles(jnp.cos, slice(1, None)),
            _clipped_velocities,
            _constraint_on_cart,
        ),
        reward=(_tip_on_top,),
        healthy=_tip_up,
        alive=10.0,
    ),
}
