"""Gymnasium's spaces as plain vectors: what is observed as features, what policies say as actions.

Bytes mean the same as in every suite: a policy sees them divided by 255.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Float


class Layout(NamedTuple):
    """How observations of a space become rows of features.

    Attributes:
        size: number of features.
        shows_bytes: whether all features are bytes, 0 ... 255.
        scale: factor between an observation and what a policy sees, of each feature.
        image_shape: channels, height and width; None if the observation is no image.
        names: names of the features; empty where the space has none.
        flatten: observation -> its features, not yet scaled.
    """

    size: int
    shows_bytes: bool
    scale: Float[np.ndarray, " o"]
    image_shape: tuple[int, int, int] | None
    names: tuple[str, ...]
    flatten: Callable[[Any], np.ndarray]

    def rows(self, observations: Sequence[Any]) -> Float[np.ndarray, "envs o"]:
        """What policies see of a batch of observations; what float32 cannot hold is inf."""
        rows = np.empty((len(observations), self.size), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, observation in zip(rows, observations, strict=True):
                flat = self.flatten(observation)
                if flat.size != self.size:
                    raise ValueError(f"shows {flat.size} features, its space has {self.size}")
                row[:] = flat
        return rows * self.scale


def make_layout(space: spaces.Space, *, scaled: bool) -> Layout:
    """Reads the layout from a space; a ``Dict`` of one part is that part.

    Args:
        space: observation space whose parts all have a fixed number of features.
        scaled: whether bytes are divided by 255.
    """
    whole, keys = space, []
    while isinstance(space, spaces.Dict) and len(space.spaces) == 1:
        ((key, space),) = space.spaces.items()
        keys.append(key)
    flatten, image_shape = _flattening(space)

    def flatten_inner(observation: Any) -> np.ndarray:
        for key in keys:
            observation = observation[key]
        return flatten(observation)

    parts = list(leaves(whole))
    scales = [
        np.full(spaces.flatdim(part), 1 / 255 if scaled and is_bytes(part) else 1, np.float32)
        for _, part in parts
    ]
    return Layout(
        size=spaces.flatdim(whole),
        shows_bytes=all(is_bytes(part) for _, part in parts),
        scale=np.concatenate(scales),
        image_shape=image_shape,
        names=() if image_shape else tuple(name for part in parts for name in _names(*part)),
        flatten=flatten_inner,
    )


def is_bytes(space: spaces.Space) -> bool:
    """Tells a space of bytes: uint8, of all values from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def leaves(space: spaces.Space, path: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """Walks through the parts of a space, in the order in which Gymnasium flattens them."""
    parts: Any = []
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield path, space
    for key, part in parts:
        yield from leaves(part, f"{path}.{key}" if path else str(key))


def misfits(space: spaces.Space) -> list[tuple[str, spaces.Space]]:
    """Finds the parts of a space that have no fixed number of features."""
    found = []
    for path, part in leaves(space):
        try:
            spaces.flatdim(part)
        except (ValueError, NotImplementedError):
            found.append((path, part))
    return found


def _flattening(
    space: spaces.Space,
) -> tuple[Callable[[Any], np.ndarray], tuple[int, int, int] | None]:
    """What flattens an observation, images channels first, and the shape of the image."""
    if not isinstance(space, spaces.Box):
        return lambda observation: np.asarray(spaces.flatten(space, observation)), None
    whole_numbers, shape = np.issubdtype(space.dtype, np.integer), space.shape

    def flatten(observation: Any) -> np.ndarray:
        observation = np.asarray(observation)
        if whole_numbers and observation.dtype.kind == "f":
            raise ValueError(f"shows {observation.dtype} where its space says {space.dtype}")
        return observation.ravel()

    if len(shape) == 2 and is_bytes(space):
        return flatten, (1, *shape)
    if len(shape) != 3:
        return flatten, None
    if shape[0] < shape[2]:
        return flatten, shape
    height, width, channels = shape
    return lambda image: flatten(np.moveaxis(np.asarray(image), -1, 0)), (channels, height, width)


def _names(path: str, space: spaces.Space) -> list[str]:
    size = spaces.flatdim(space)
    if not path:
        return []
    return [path] if size == 1 else [f"{path}[{i}]" for i in range(size)]


def action_bounds(
    space: spaces.Discrete | spaces.Box,
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Bounds of a flattened action; of ``Discrete`` ones a score each, without bounds."""
    if isinstance(space, spaces.Discrete):
        unbounded = np.full(int(space.n), np.inf, np.float32)
        return -unbounded, unbounded
    # the largest number of a float stands for no bound
    most = np.finfo(np.float32).max
    low = np.where(space.bounded_below & (space.low > -most), space.low, -np.inf)
    high = np.where(space.bounded_above & (space.high < most), space.high, np.inf)
    return low.ravel().astype(np.float32), high.ravel().astype(np.float32)


def action_map(
    space: spaces.Discrete | spaces.Box,
) -> Callable[[Float[np.ndarray, "envs a"]], list[Any]]:
    """What turns actions of policies into actions of a space, none outside finite bounds.

    Of scores the highest is played, the first of equals. A bounded whole number is the part, of
    as many equal ones as there are numbers, that an action lies in: each is equally wide, and a
    whole number is itself. An unbounded one is rounded.
    """
    if isinstance(space, spaces.Discrete):
        start = space.start
        return lambda scores: list(start + scores.argmax(1))
    low, high = (bound.astype(np.float64).ravel() for bound in action_bounds(space))
    bounded = np.isfinite(low) & np.isfinite(high)
    base, span = np.where(bounded, low, 0), np.where(bounded, np.maximum(high - low, 1), 1)

    def whole(actions: np.ndarray) -> np.ndarray:
        parts = base + np.floor((actions - base) * ((span + 1) / span))
        return np.where(bounded, parts, np.rint(actions))

    is_whole, shape = np.issubdtype(space.dtype, np.integer), space.shape

    def act(actions: Float[np.ndarray, "envs a"]) -> list[np.ndarray]:
        exact = actions.astype(np.float64)
        exact = whole(exact) if is_whole else exact
        # each an array, where indexing would give a number of an action of no dimension
        return [np.asarray(one) for one in _cast(exact.reshape(len(exact), *shape), space)]

    return act


def _cast(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Actions in the dtype of a space, within its bounds there too."""
    if np.issubdtype(space.dtype, np.integer):
        limits = np.iinfo(np.dtype(space.dtype).str)
        # the largest int64 is no float64: 2**63 would overflow
        most = math.nextafter(float(limits.max), 0) if limits.bits > 52 else limits.max
        actions = np.clip(actions, float(limits.min), most)
    with np.errstate(over="ignore"):
        return np.clip(actions.astype(space.dtype), space.low, space.high)
