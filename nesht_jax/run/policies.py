"""What a run had learned at each of its evaluations, in ``policies.npz`` of its folder.

The file holds plain arrays, stacked along the evaluations: their ``generation``, mean ``return``
and ``sparsity``, the params as they were played under ``params/``, the moments that policies read
under ``moments/``; of a search ``edges``, the share of the proposals in which each edge lives.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nesht_jax.run.agent import RunState
from nesht_jax.run.yaml import write
from nesht_jax.types import Moments, Params, is_phantom

NAME = "policies.npz"

MOST_BYTES = 2**24
"""Bytes of a file: of larger policies the oldest go, but for the best."""

Which = int | Literal["best"]
"""Generation of an evaluation; or that whose mean return was highest, the last of equals."""


class Learned(NamedTuple):
    """What a run had learned after some generation.

    Attributes:
        generation: number of the generation.
        sparsity: fraction of weights that do not live.
        params: params as sparse as the method makes them.
        moments: running moments of observations; None where the policy uses none.
        state: checkpoint that all this is of; None of an evaluation.
        edges: share of the proposed architectures in which each entry of the kernels lives; None
            without a search, and of what is read from a file.
    """

    generation: int
    sparsity: float
    params: Params
    moments: Moments | None
    state: RunState | None = None
    edges: Float[np.ndarray, " e"] | None = None


class Policies:
    """Writes the policies of a run, the whole file at each evaluation.

    Args:
        folder: run folder; what its file holds of generations from ``number`` on goes.
        number: first generation that the run makes, 0 from the start.

    Raises:
        ValueError: if the file of a run that goes on does not read.
    """

    def __init__(self, folder: Path, *, number: int) -> None:
        self._path = folder / NAME
        self._kept: list[dict[str, np.ndarray]] = []
        if number and self._path.is_file():
            try:
                arrays = read_arrays(folder)
            except ValueError as error:
                raise ValueError(f"{error}; move it away to go on without") from error
            for i in np.flatnonzero(arrays["generation"] < number):
                self._kept.append({name: stack[i] for name, stack in arrays.items()})

    def append(self, learned: Learned, *, mean: float | None) -> None:
        """Adds a policy; a kill in the middle leaves the file as it was.

        Args:
            learned: policy of an evaluation.
            mean: mean return of the evaluation; None if all of its episodes failed.
        """
        arrays = {
            "generation": np.asarray(learned.generation, np.int64),
            "return": np.asarray(np.nan if mean is None else mean, np.float64),
            "sparsity": np.asarray(learned.sparsity, np.float32),
            **_named("params", learned.params),
            **_named("moments", learned.moments),
            **({} if learned.edges is None else {"edges": learned.edges.astype(np.float32)}),
        }
        self._kept.append(arrays)
        size = sum(array.nbytes for array in arrays.values())
        while len(self._kept) > 2 and size * len(self._kept) > MOST_BYTES:
            best = best_of(np.array([kept["return"] for kept in self._kept]))
            del self._kept[0 if best else 1]
        stacked = {name: np.stack([kept[name] for kept in self._kept]) for name in arrays}
        file = io.BytesIO()
        np.savez(file, **stacked)  # pyright: ignore[reportArgumentType]
        write(self._path, file.getvalue())


def best_of(returns: np.ndarray) -> int:
    """Finds the highest return, the last of equals; the last evaluation if all failed."""
    backward = np.where(np.isnan(returns), -np.inf, returns)[::-1]
    return len(returns) - 1 - int(np.argmax(backward))


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Reads the whole file of a run.

    Raises:
        ValueError: if there is none, or it does not read.
    """
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{folder} has no {NAME}: its policies at evaluations were not kept")
    try:
        # not by name, as NumPy leaves a damaged file open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        lengths = {len(array) for array in arrays.values()}
        if (
            len(lengths) != 1
            or 0 in lengths
            or not {"generation", "return", "sparsity"} <= set(arrays)
        ):
            raise ValueError("its arrays do not fit together")
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return arrays


def read_policy(folder: Path, which: Which, params: Params, moments: Moments | None) -> Learned:
    """Reads one policy of a run.

    Args:
        folder: run folder.
        which: which evaluation.
        params: params of some policy of the run, which give structure and shapes.
        moments: moments of the run, likewise.

    Raises:
        ValueError: if the file does not read, has no such evaluation, or holds other shapes.
    """
    arrays = read_arrays(folder)
    generations = arrays["generation"]
    place = best_of(arrays["return"])
    if which != "best":
        if not isinstance(which, int):
            raise ValueError(f"a policy is of a generation, or the best, got {which!r}")
        found = np.flatnonzero(generations == which)
        if not found.size:
            near = sorted(generations.tolist(), key=lambda g: abs(g - which))[:3]
            told = ", ".join(str(g) for g in sorted(near))
            raise ValueError(
                f"{folder} keeps no policy of generation {which}: the nearest that it has are "
                f"{told}; the best is {generations[place]}"
            )
        place = int(found[0])
    one = {name: stack[place] for name, stack in arrays.items()}
    params = _filled("params", params, one, folder)
    moments = None if moments is None else _filled("moments", moments, one, folder)
    return Learned(int(one["generation"]), float(one["sparsity"]), params, moments)


def _named(kind: str, tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree by name, phantoms left out."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    told = [(path, leaf) for path, leaf in paths if not is_phantom(path)]
    return {_name(kind, path): np.asarray(leaf) for path, leaf in told}


def _filled(kind: str, like: Any, arrays: dict[str, Any], folder: Path) -> Any:
    """A pytree like ``like`` with the arrays of these names; phantoms are as they are there."""

    def leaf(path: Any, old: Any) -> Any:
        if is_phantom(path):
            return old
        found = arrays.get(_name(kind, path))
        if found is None or found.shape != np.shape(old) or found.dtype != np.asarray(old).dtype:
            raise ValueError(f"{folder / NAME} holds another policy: {_name(kind, path)} differs")
        return jnp.asarray(found)

    return jax.tree_util.tree_map_with_path(leaf, like)


def _name(kind: str, path: Any) -> str:
    return f"{kind}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
