"""What a policy reads: the weights of its first layer under the names of sensors and motors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MOST_IN_LAW = 12
"""Inputs of a policy whose formulas are shown."""


class Reading(NamedTuple):
    """The first layer of a policy, with names.

    Attributes:
        sensors: names of the o true features.
        motors: names of what the layer moves: actions, choices, or hidden units.
        weights: [(1 + N) o, outputs], those of the N segments of distractors last; 0 where dead.
        biases: one of each output.
        formulas: what a linear policy makes of each sum, as ``"tanh({})"``; none of another policy.
        units: what a sensor's name stands for in a formula, in words.
    """

    sensors: tuple[str, ...]
    motors: tuple[str, ...]
    weights: Float[np.ndarray, "inputs outputs"]
    biases: Float[np.ndarray, " outputs"]
    formulas: tuple[str, ...] = ()
    units: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs, the irrelevant ones numbered."""
        number = len(self.weights) - len(self.sensors)
        return (*self.sensors, *(f"irrelevant {i}" for i in range(number)))

    @property
    def read(self) -> Bool[np.ndarray, "segments o"]:
        """Which features have a weight, those of the true observation first."""
        return self.weights.any(1).reshape(-1, len(self.sensors))

    @property
    def weights_by_segment(self) -> list[int]:
        """Number of weights on each segment of the observation, the true one first."""
        kept = self.weights.astype(bool).sum(1)
        return kept.reshape(-1, len(self.sensors)).sum(1).tolist()

    def verdict(self) -> str:
        """Tells in one phrase how many inputs of which kind are read."""
        true, *distractors = self.read
        told = f"reads {true.sum()} of {true.size} sensors"
        if not distractors:
            return told
        return f"{told} and {np.sum(distractors)} of {np.size(distractors)} irrelevant inputs"

    def short_law(self) -> list[str]:
        """Writes the law and what its names stand for, if it is short enough to be read."""
        if not self.formulas or self.read.sum() > MOST_IN_LAW:
            return []
        return [*self.law(), f"({self.units})"]

    def law(self) -> list[str]:
        """Writes a linear policy as formulas, one a motor, the strongest sensor first."""
        names, lines = self.inputs, []
        for j, formula in enumerate(self.formulas):
            order = np.argsort(-np.abs(self.weights[:, j]), kind="stable")
            terms = [(float(self.weights[i, j]), f" {names[i]}") for i in order]
            total = _sum([*terms, (float(self.biases[j]), "")])
            lines.append(f"{self.motors[j]} = {formula.format(total)}")
        return lines


def _sum(terms: list[tuple[float, str]]) -> str:
    """Writes Σ factor · name with two decimals; what rounds to 0 there is left out."""
    told = [
        f"{'-' if factor < 0 else '+'} {abs(factor):.2f}{name}"
        for factor, name in terms
        if abs(factor) >= 0.005
    ]
    first, *others = told or ["0"]
    return " ".join([first.removeprefix("+ ").replace("- ", "-"), *others])
