"""MuJoCo without its messages."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled bindings have no type stubs.

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco


@contextmanager
def silence_mujoco() -> Iterator[None]:
    """Keeps MuJoCo from logging what it finds deprecated in a model to a file in the working
    folder."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
