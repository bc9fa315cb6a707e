"""The alphabet of axes, and the records that the parts of the package hand to one another.

Axes: ``m`` members · ``n`` directions (m/2 if mirrored, else m) · ``d`` parameters · ``o``
observation features, distractors included · ``a`` actions · ``h x w`` pixels.

**Fitness is maximized, everywhere.**
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

Params = Any
"""Any pytree of floating-point arrays; ``d`` entries in all."""


# ------------------------------------------------------------------------------- the population


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """The matrix W + A Bᵀ in place of a kernel: ``x @ it`` computes x W + (x A) Bᵀ.

    Under ``vmap`` over A and B alone, x W is one matrix product for all members.

    Attributes:
        matrix: W [in, out]; None where A Bᵀ stands alone.
        a: A [in, r].
        b: B [out, r].
    """

    matrix: Any
    a: Any
    b: Any

    def __rmatmul__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        return x @ self.matrix + (x @ self.a) @ self.b.T


def is_low_rank(leaf: Any) -> bool:
    """Tells low-rank leaves, for ``jax.tree.map(..., is_leaf=is_low_rank)``."""
    return isinstance(leaf, LowRank)


def _whole(drawn: Any) -> Params:
    return drawn


class Population(NamedTuple):
    """The members of one generation, each made where it is needed: ``population(i)`` is its params.

    A population of m members is m·d numbers, too many to store or to send. So a member is made in
    two steps, in the loop that plays it. ``draw(i)`` gives what member i has of its own (a
    perturbation; with ES-ENAS an architecture), which is all that an environment holds.
    ``assemble`` joins it with what all members share (the center, held once) to params that a
    policy takes. Under ``vmap`` over the drawn part, products with the shared part are computed
    once for all members.

    Both functions are ``jax.tree_util.Partial``, so that a population may cross ``jit``.

    Attributes:
        draw: index i -> pytree of arrays that member i has of its own.
        assemble: drawn pytree -> params of the member; by default all params are drawn.
        first: index of member 0 in the population that this is a share of, see ``share``.
    """

    draw: Callable[[Any], Any]
    assemble: Callable[[Any], Params] = jax.tree_util.Partial(_whole)
    first: int | Int[Array, ""] = 0

    def __call__(self, i: int | Int[Array, ""]) -> Params:
        return self.assemble(self.draw(i))

    def share(self, first: int | Int[Array, ""]) -> "Population":
        """The members from this one on, counted from 0. What a suite draws for the episodes of a
        member it draws by its index in the whole."""
        draw = jax.tree_util.Partial(_draw_from, self.draw, first)
        return self._replace(draw=draw, first=self.first + first)


def _draw_from(draw: Callable[[Any], Any], first: Any, i: Any) -> Any:
    return draw(first + i)


def replicate(params: Params) -> Population:
    """Makes a population whose members all have these params, as an evaluation of one policy
    wants it: nothing is drawn, everything is shared."""
    return Population(jax.tree_util.Partial(_nothing), jax.tree_util.Partial(_shared, params))


def _nothing(i: Any) -> tuple[()]:
    return ()


def _shared(params: Params, drawn: tuple[()]) -> Params:
    return params


# ------------------------------------------------------------------------------ the observations


class Moments(NamedTuple):
    """Running statistics of observations, feature by feature.

    Attributes:
        number: how many observations were counted.
        mean: mean of each feature, in units of the observation.
        deviation: sum of squared deviations from the mean of each feature.
    """

    number: Float[Array, "*batch"]
    mean: Float[Array, "*batch o"]
    deviation: Float[Array, "*batch o"]

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Moments of no observation, of ``size`` features."""
        return cls(*(jnp.zeros(shape, jnp.float32) for shape in ((), size, size)))

    @classmethod
    def of_batch(cls, observations: Float[Array, "b o"], counted: Bool[Array, " b"]) -> "Moments":
        """Moments of the rows that are counted; the others may hold anything, NaN included."""
        rows = jnp.where(counted[:, None], observations, 0)
        return cls(counted.astype(rows.dtype), rows, jnp.zeros_like(rows)).merge_all()

    def add(self, observation: Float[Array, " o"]) -> "Moments":
        """Moments with one more observation. Welford 1962."""
        return self.merge(Moments(jnp.ones_like(self.number), observation, observation * 0))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union of two disjoint sets. Chan et al. 1979, equations 2.1."""
        number = self.number + other.number
        share = other.number / jnp.maximum(number, 1)
        shift = other.mean - self.mean
        mean = self.mean + share * shift
        deviation = self.deviation + other.deviation + shift**2 * self.number * share
        return Moments(number, mean, deviation)

    def merge_finite(self, other: "Moments") -> tuple["Moments", Bool[Array, ""]]:
        """Moments of the union, or, where these are not finite, ``self`` alone; and which it is.

        Returns:
            The moments, and whether ``other`` had to be left out, as its squares overflow.
        """
        merged = self.merge(other)
        dropped = ~jnp.array([jnp.isfinite(leaf).all() for leaf in merged], bool).all()
        kept = (jnp.where(dropped, old, new) for old, new in zip(self, merged, strict=True))
        return Moments(*kept), dropped

    def merge_all(self) -> "Moments":
        """Moments of the union of many disjoint sets, stacked along the leading axis."""
        number = self.number.sum()
        weight = self.number[:, None] / jnp.maximum(number, 1)
        mean = (weight * self.mean).sum(0)
        between = (self.number[:, None] * (self.mean - mean[None]) ** 2).sum(0)
        return Moments(number, mean, self.deviation.sum(0) + between)


# -------------------------------------------------------------------------------- the evaluation


class Evaluation(NamedTuple):
    """What one generation of episodes brought.

    Attributes:
        fitness: undiscounted return of each member, averaged over its episodes; to be maximized.
            Not finite where an episode of the member failed: where it was shown, or was paid, what
            is not a finite number.
        steps: useful environment steps of each member, those inside its episodes.
        simulated_steps: all environment steps that the simulator did, idle ones included.
        observed: moments of the observations that the policies acted on; None where the policy
            does not use them.
        terminated_at: step, counted from 1, in which the task terminated each episode of each
            member, as by a fall; 0 where it did not. None where nobody tells.
    """

    fitness: Float[Array, " m"]
    steps: Int[Array, " m"]
    simulated_steps: Int[Array, ""]
    observed: Moments | None = None
    terminated_at: Int[Array, "m episodes"] | None = None


@runtime_checkable
class Evaluate(Protocol):
    """Plays the episodes of every member of a population.

    The suite behind it owns resets, termination and the average over episodes; ``es`` owns
    everything about params. ``key`` is consumed whole: give each generation its own. ``horizon`` is
    the number of steps after which this call cuts its episodes, where the task does not do so
    sooner; a function of one's own may leave it out, if nobody asks for it.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation: ...


@runtime_checkable
class HostEvaluate(Evaluate, Protocol):
    """An ``Evaluate`` that steps a simulator outside JAX; it cannot be traced.

    Where its resets come from the simulator's own random state, which moves with every call, call
    number c is a function of (seed, c, key), and ``seek`` makes the next call number c. Where the
    key gives the resets, ``seek`` does nothing. ``close`` frees the simulators.
    """

    def seek(self, calls: int) -> None: ...

    def close(self) -> None: ...


# ------------------------------------------------------------------------------ task and policy


DistractorKind = Literal["normal", "scaled", "slow", "driven", "marginal", "replayed"]
"""How irrelevant features behave, see ``tasks.make_task``."""


@dataclass(frozen=True)
class Task:
    """A task as one value, made once by ``make_task``: what it shows, what it takes, how long.

    Attributes:
        name: suite and task, as ``"mjx/hopper"``.
        options: options of the simulator behind the suite, by its own names.
        observation_size: features of the true observation, distractors not counted.
        action_low: lower bound of each action. Of a discrete action space: one score (logit) an
            action, -inf.
        action_high: upper bound of each action; likewise inf.
        discrete: whether an action is one of several choices: the policy then gives each choice a
            score, and the suite plays the highest, the first of equals.
        horizon: steps after which an episode is cut; None if neither task nor user limits it.
        distractors: N; N times as many irrelevant features follow the true observation.
        distractor_kind: how they behave.
        image_shape: channels, height and width of a true observation that is an image, flattened
            in this order; None if it is none.
        frame_skip: emulator frames in one step; None where there are none.
        terminates: False where no episode ends before its horizon.
        alive_bonus: part of the reward that every step pays for being alive, on top of what the
            body does; 0 where there is none, or where staying alive is all that is asked.
        terminal_bonus: what of it a step pays that terminates an episode.
        feature_names: names of the true features; empty where nobody tells.
        action_names: names of the components of an action, or of its choices; likewise.
        simulator: what the suite steps: an ``envs.Environment``, or its own record.
    """

    name: str
    options: dict[str, Any]
    observation_size: int
    action_low: Float[np.ndarray, " a"]
    action_high: Float[np.ndarray, " a"]
    discrete: bool
    horizon: int | None
    distractors: int = 0
    distractor_kind: DistractorKind = "normal"
    image_shape: tuple[int, int, int] | None = None
    frame_skip: int | None = None
    terminates: bool = True
    alive_bonus: float = 0.0
    terminal_bonus: float = 0.0
    feature_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    simulator: Any = None

    @property
    def num_features(self) -> int:
        """Features that the policy sees, distractors included."""
        return self.observation_size * (1 + self.distractors)

    @property
    def num_actions(self) -> int:
        """Components of an action, or choices."""
        return len(self.action_low)

    @property
    def seen_image_shape(self) -> tuple[int, int, int] | None:
        """Shape of the image that the policy sees: distractors of an image are further channels."""
        if self.image_shape is None:
            return None
        channels, height, width = self.image_shape
        return channels * (1 + self.distractors), height, width


class Layer(NamedTuple):
    """What a policy tells of one of its layers.

    Attributes:
        name: key of the layer's weights in params.
        kind: what the layer computes.
        kernel: path of its kernel in params, joined by "/".
        shape: (in, out) of a dense kernel; (channels, size, size, features) of filters.
        inputs: what it reads: ``"observation"``, or the name of the layer before it.
    """

    name: str
    kind: Literal["dense", "convolution"]
    kernel: str
    shape: tuple[int, ...]
    inputs: str

    @property
    def fan_in(self) -> int:
        """Weights that one output sums over."""
        return math.prod(self.shape[:-1])

    @property
    def fan_out(self) -> int:
        """Outputs, or filters."""
        return self.shape[-1]


def unchanged(population: Population) -> Population:
    """The population as it is: ``Policy.prepare`` of a policy that needs no preparation."""
    return population


class Policy(NamedTuple):
    """What acts on an observation.

    Attributes:
        init: key -> params.
        apply: (params, moments, observation [o]) -> action [a], within the task's bounds, or
            scores of its choices.
        uses_moments: whether ``apply`` reads the running moments of observations, so that suites
            must gather them.
        stochastic: whether the suite draws a choice from the softmax of the scores that ``apply``
            gives, instead of playing the highest.
        prepare: population -> population, before it plays. Virtual batch normalization computes
            here, once an episode, what ``apply`` would else compute at every step.
        layers: the layers, first to last; empty where the policy does not tell.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Moments | None, Float[Array, " o"]], Float[Array, " a"]]
    uses_moments: bool = False
    stochastic: bool = False
    prepare: Callable[[Population], Population] = unchanged
    layers: tuple[Layer, ...] = ()


# -------------------------------------------------------------------------------------- the mask


PHANTOM = "phantom"
"""Name of the leaf of params that no policy reads: weights that are known not to matter."""


class SparseState(NamedTuple):
    """State of a transformation that keeps params sparse: which weights live is a fact of its own.

    A weight of value 0 may live (methods that grow weights grow them at 0).

    Attributes:
        updates: updates done.
        mask: pytree like params; True where a weight lives.
        support: pytree like params; True where a weight may move: those that lived when it was last
            decided, and those that are tried until the next time. None: all may.
        walk: variance that chance alone would have brought every unit, see ``selection``; None of
            other methods.
    """

    updates: Int[Array, ""]
    mask: Params
    support: Params | None = None
    walk: Params | None = None


def is_phantom(path: tuple[Any, ...]) -> bool:
    """Tells a leaf of phantoms by its path in params."""
    return bool(path) and jax.tree_util.keystr(path[-1:], simple=True) == PHANTOM


def mask_of(optimizer_state: Any, params: Params) -> Params | None:
    """Reads the mask of live weights from the state of an optimizer chain; None if all are dense.

    A weight lives if every sparsity transformation in the chain that has charge of it lets it live.
    """
    return _all_of(optimizer_state, params, lambda state: state.mask)


def support_of(optimizer_state: Any, params: Params) -> Params | None:
    """Reads which weights a search may move from the state of an optimizer chain; None: all."""
    return _all_of(optimizer_state, params, lambda state: state.support)


def center_of(params: Params, optimizer_state: Any) -> Params:
    """Gives what policies are made of, the center of a search: params, with 0 where none lives."""
    mask = mask_of(optimizer_state, params)
    if mask is None:
        return params
    return jax.tree.map(lambda p, lives: jnp.where(lives, p, 0), params, mask)


def sparse_states(optimizer_state: Any) -> list[SparseState]:
    """Finds the states of the sparsity transformations in that of an optimizer chain, in order."""

    def is_sparse(node: Any) -> bool:
        return isinstance(node, SparseState)

    return [x for x in jax.tree.leaves(optimizer_state, is_leaf=is_sparse) if is_sparse(x)]


def _all_of(
    optimizer_state: Any, params: Params, part: Callable[[SparseState], Params]
) -> Params | None:
    parts = [part(state) for state in sparse_states(optimizer_state)]
    masks = [dict(jax.tree_util.tree_flatten_with_path(p)[0]) for p in parts if p is not None]
    if not masks:
        return None

    def lives(path: Any, leaf: Any) -> Bool[Array, "..."]:
        alive = jnp.ones(leaf.shape, bool)
        for mask in masks:
            alive = alive & mask[path] if path in mask else alive
        return alive

    return jax.tree_util.tree_map_with_path(lives, params)


def sparsity_of(mask: Params | None) -> Float[Array, ""]:
    """The fraction of weights that do not live, phantoms left out; 0 without a mask."""
    paths = jax.tree_util.tree_flatten_with_path(mask)[0]
    leaves = [leaf for path, leaf in paths if not is_phantom(path)]
    total = sum(leaf.size for leaf in leaves)
    dead = sum((jnp.sum(~leaf) for leaf in leaves), jnp.int32(0))
    return dead / jnp.float32(max(total, 1))
