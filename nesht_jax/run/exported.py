"""Exported files at work: what each format answers here, and how long one action takes."""

import ctypes
import importlib.util
import runpy
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from jaxtyping import Float

from nesht_jax.run.formats import read_safetensors
from nesht_jax.run.plain import PlainPolicy

MEASUREMENTS = 31
"""Measurements of a time, of which the median is told."""

LEAST_SECONDS = 0.004
"""Time of a measurement, by as many rounds as it takes."""

MOST_COMPILED = 4_000
"""Weights of a C header that is compiled here: beyond them a compiler takes many seconds."""

Observations = Float[np.ndarray, "number features"]


class Player(NamedTuple):
    """What acts by an exported file.

    Attributes:
        how: what computes the actions, in words.
        play: (observations, rounds) -> action of each, one after another, all of it ``rounds``
            times over.
    """

    how: str
    play: Callable[[Observations, int], Sequence[Any] | np.ndarray]


def player(to: str, path: Path, made: PlainPolicy) -> Player | None:
    """Makes what acts by an exported file; None where nothing here reads its format.

    Args:
        to: format of the file.
        path: file.
        made: policy that it holds.
    """
    return _PLAYERS[to](path, made)


def actions(found: Player, observations: Observations) -> np.ndarray:
    """Gives the action of each observation."""
    return np.stack([np.asarray(action) for action in found.play(observations, 1)])


def seconds_of_one(players: Sequence[Player], observations: Observations) -> list[float]:
    """Times one action of each player, the median of measurements that take turns."""
    rounds = [_rounds(found, observations) for found in players]
    taken = [
        [
            _seconds(found, observations, number) / (number * len(observations))
            for found, number in zip(players, rounds, strict=True)
        ]
        for _ in range(MEASUREMENTS)
    ]
    return np.median(taken, axis=0).tolist()


def _rounds(found: Player, observations: Observations) -> int:
    """Rounds that a measurement takes."""
    number = 1
    _seconds(found, observations, number)  # the first compiles
    while _seconds(found, observations, number) < LEAST_SECONDS:
        number *= 2
    return number


def _seconds(found: Player, observations: Observations, rounds: int) -> float:
    begin = time.perf_counter()
    found.play(observations, rounds)
    return time.perf_counter() - begin


def _one_by_one(how: str, act: Callable[[np.ndarray], Any]) -> Player:
    def play(observations: Observations, rounds: int) -> list[Any]:
        acts = []
        for _ in range(rounds):
            acts = [act(observation) for observation in observations]
        return acts

    return Player(how, play)


def _numpy(path: Path, made: PlainPolicy) -> Player:
    return _one_by_one("NumPy", runpy.run_path(str(path))["act"])


def _safetensors(path: Path, made: PlainPolicy) -> Player:
    return _one_by_one("NumPy", read_safetensors(path))


def _jax(path: Path, made: PlainPolicy) -> Player:
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return _one_by_one(f"JAX on {jax.default_backend()}", lambda x: np.asarray(call(x[None]))[0])


def _onnx(path: Path, made: PlainPolicy) -> Player | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()  # pyright: ignore[reportAttributeAccessIssue]
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def act(observation: np.ndarray) -> Any:
        return np.asarray(session.run(["action"], {"observation": observation[None]})[0])[0]

    return _one_by_one("onnxruntime on one thread", act)


def _c(path: Path, made: PlainPolicy) -> Player | None:
    compiler = shutil.which("cc")
    if compiler is None or made.num_weights > MOST_COMPILED:
        return None
    flags = ["-O2", "-std=c99", "-shared", "-fPIC"]
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        shutil.copy(path, Path(place, "policy.h"))
        source, library = Path(place, "play.c"), Path(place, "play.so")
        source.write_text(_LOOP_OF_CHOICES if made.discrete else _LOOP, encoding="utf-8")
        try:
            command = [compiler, *flags, str(source), "-o", str(library), "-lm"]
            subprocess.run(command, check=True, capture_output=True)
            loop = ctypes.CDLL(str(library)).play
        except (OSError, subprocess.CalledProcessError):
            return None

    def play(observations: Observations, rounds: int) -> np.ndarray:
        seen = np.ascontiguousarray(observations, np.float32)
        shape = (len(seen),) if made.discrete else (len(seen), len(made.motors))
        acts = np.empty(shape, np.intc if made.discrete else np.float32)
        loop(
            ctypes.c_void_p(seen.ctypes.data), ctypes.c_void_p(acts.ctypes.data), len(seen), rounds
        )
        return acts

    return Player("C by cc -O2", play)


# the function is not inlined, so that every action is a call and none is computed twice at once
_LOOP = """__attribute__((noinline)) static void policy(const float *observation, float *action);
#include "policy.h"
void play(const float *seen, float *acts, int number, int rounds) {
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < number; i++)
            policy(seen + (long)i * POLICY_FEATURES, acts + (long)i * POLICY_ACTIONS);
}
"""

_LOOP_OF_CHOICES = """__attribute__((noinline)) static int policy(const float *observation);
#include "policy.h"
void play(const float *seen, int *acts, int number, int rounds) {
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < number; i++)
            acts[i] = policy(seen + (long)i * POLICY_FEATURES);
}
"""

_PLAYERS: dict[str, Callable[[Path, PlainPolicy], Player | None]] = {
    "numpy": _numpy,
    "c": _c,
    "onnx": _onnx,
    "jax": _jax,
    "safetensors": _safetensors,
}
