"""The published loop in plain NumPy and Gymnasium, one process a core, written to be fast.

Every process holds the center and its optimizer and makes all noise from the seed, so that only
member numbers and returns cross between processes. Members are taken one by one from a shared
counter: whoever is done early takes more.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Settings(NamedTuple):
    """Settings of a search; see ``nesht_jax.run.config``."""

    task: str
    num_members: int
    sigma: float
    learning_rate: float
    mirrored: bool
    common_random_numbers: bool
    horizon: int
    seed: int


class Search:
    """Center, Adam and noise: the same in every process."""

    def __init__(self, settings: Settings, kernel: np.ndarray, bias: np.ndarray) -> None:
        self.settings, self._shape = settings, kernel.shape
        self.center = np.concatenate([kernel.ravel(), bias]).astype(np.float64)
        self._mean, self._square = np.zeros_like(self.center), np.zeros_like(self.center)
        self.generation = 0
        self._draw()

    def _draw(self) -> None:
        draw = np.random.default_rng([self.settings.seed, self.generation])
        m, d = self.settings.num_members, self.center.size
        self._noise = draw.standard_normal((m // 2 if self.settings.mirrored else m, d))
        if self.settings.mirrored:
            self._noise = np.stack([self._noise, -self._noise], 1).reshape(m, d)

    def layer(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cuts weights [d] into kernel [o, a] and bias [a]."""
        size = self._shape[0] * self._shape[1]
        return weights[:size].reshape(self._shape), weights[size:]

    def member(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Makes kernel and bias of member i."""
        return self.layer(self.center + self.settings.sigma * self._noise[i])

    def reset_seed(self, i: int) -> int:
        """Gives the seed of the reset that member i starts from."""
        pair = i // 2 if self.settings.common_random_numbers else i
        return (self.settings.seed * 2**10 + self.generation) * self.settings.num_members + pair

    def tell(self, returns: np.ndarray) -> None:
        """One step of Adam along Σ_i u_i ε_i / (mσ), u the centerd ranks of the returns."""
        m = self.settings.num_members
        ranks = np.empty(m)
        ranks[returns.argsort()] = np.arange(m)
        utilities = ranks / (m - 1) - 0.5
        gradient = utilities @ self._noise / (m * self.settings.sigma)
        self.generation += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean = self._mean / (1 - 0.9**self.generation)
        square = self._square / (1 - 0.999**self.generation)
        self.center += self.settings.learning_rate * mean / (np.sqrt(square) + 1e-8)
        self._draw()


def generations(
    settings: Settings, kernel: np.ndarray, bias: np.ndarray, *, processes: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Gives kernel and bias of the center, and the steps so far, after every generation."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pipes, workers = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        arguments = (Search(settings, kernel, bias), counter, theirs)
        workers.append(context.Process(target=work, args=arguments, daemon=True))
        workers[-1].start()
        pipes.append(ours)
    search, steps = Search(settings, kernel, bias), 0
    while True:
        returns = np.empty(settings.num_members)
        for pipe in pipes:
            for i, value, length in pipe.recv():
                returns[i] = value
                steps += length
        counter.value = 0  # pyright: ignore
        search.tell(returns)
        yield *search.layer(search.center), steps
        for pipe in pipes:
            pipe.send(returns)


def work(search: Search, counter: Any, pipe: Any) -> None:
    """Plays members until none is left, sends what they came to, takes in what all came to."""
    import gymnasium

    environment: Any = gymnasium.make(search.settings.task).unwrapped
    while True:
        played = []
        while (i := _next(counter)) < search.settings.num_members:
            environment.reset(seed=search.reset_seed(i))
            played.append((i, *episode(environment, *search.member(i), search.settings.horizon)))
        pipe.send(played)
        search.tell(pipe.recv())


def _next(counter: Any) -> int:
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1


def episode(
    environment: Any, kernel: np.ndarray, bias: np.ndarray, horizon: int
) -> tuple[float, int]:
    """Plays one episode; gives its return and length. Mean and deviation are two reductions, as one
    feature after another costs."""
    x = environment._get_obs()
    share, total = 1 / x.size, 0.0
    for step in range(1, horizon + 1):
        x = x - np.add.reduce(x) * share
        scale = 1 / ((x.dot(x) * share) ** 0.5 + 1e-5)
        x, reward, terminated, _, _ = environment.step(np.tanh((x * scale).dot(kernel) + bias))
        total += reward
        if terminated:
            return total, step
    return total, horizon
