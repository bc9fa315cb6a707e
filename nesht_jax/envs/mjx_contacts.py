"""C MuJoCo's frames of contacts in MJX, where the two differ.

A capsule's contact with a plane has its friction pyramid along the capsule in C MuJoCo, however
steep the capsule. MJX does so only where the capsule leans more than 30° off the plane's normal;
else it lays the pyramid along the y axis. Turning a pyramid by 45° changes the friction by up to a
factor of √2, which shows on ant and humanoid; the planar walkers' pyramids are turned by 90°, onto
themselves.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mujoco import mjx
from mujoco.mjx._src import collision_driver

PLANE_CAPSULE = (mjx.GeomType.PLANE, mjx.GeomType.CAPSULE)


@contextmanager
def c_mujoco_contacts() -> Iterator[None]:
    """Gives MJX that is traced inside C MuJoCo's contacts.

    MJX offers no other way to a collision function than its own table, which is as before when this
    ends.
    """
    table = collision_driver._COLLISION_FUNC
    stock = table[PLANE_CAPSULE]

    @functools.wraps(stock)  # MJX reads the number of contacts off an attribute of the function
    def aligned(model, data, key, geom):
        distance, position, _ = stock(model, data, key, geom)
        normal, axis = (data.geom_xmat[side, :, 2] for side in geom.T)
        frame = jax.vmap(_frame)(normal, axis)
        return distance, position, jnp.repeat(frame, stock.ncon, axis=0)

    table[PLANE_CAPSULE] = aligned
    try:
        yield
    finally:
        table[PLANE_CAPSULE] = stock


def _frame(normal: Float[Array, "3"], axis: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """Rows: the normal, the axis made orthogonal to it, and what completes them."""
    along = axis - normal * (normal @ axis)
    length = jnp.linalg.norm(along)
    # 1e-15 is C MuJoCo's mjMINVAL: an upright capsule has no direction along the plane, and gets x
    along = jnp.where(length > 0, along / jnp.maximum(length, 1e-15), jnp.array([1.0, 0.0, 0.0]))
    return jnp.stack([normal, along, jnp.cross(normal, along)])
