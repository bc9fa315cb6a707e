"""The parts of a config: algorithm, sparsity, policy, search, agent, optimizer, evaluations."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from nesht_jax.run.fields import checked

MOST_LAYERS = 64
"""Hidden layers of a policy; of thousands, which a damaged file may name, no end would be seen."""


class Section:
    """A part of a config; its values are checked by type and rule however it is made.

    Attributes:
        PREFIX: what stands before a field's name in messages and on the command line.
    """

    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = checked(type(self), f.name, getattr(self, f.name), self.PREFIX)
            object.__setattr__(self, f.name, value)
        self._check()

    def _check(self) -> None:
        """Refuses values that no type rules out."""

    def _whole(self, least: int, *names: str) -> None:
        """Refuses whole numbers below ``least``, or that 32 bits cannot hold; None passes."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not least <= value < 2**31:
                rule = f"at least {least}" if value < least else "below 2^31"
                raise ValueError(f"{self.PREFIX}{name} must be {rule}, got {value}")

    def _finite(self, least: float, *names: str, open_: bool = False) -> None:
        """Refuses numbers below ``least`` (or at it, if ``open_``), infinite ones and NaN."""
        for name in names:
            value = getattr(self, name)
            if not (least < value < math.inf or (value == least and not open_)):
                rule = "positive and finite" if open_ else f"finite and at least {least:g}"
                raise ValueError(f"{self.PREFIX}{name} must be {rule}, got {value}")


@dataclass(frozen=True)
class AlgorithmConfig(Section):
    """The evolution strategy: how members are made, and what their fitness is worth.

    Args:
        num_members: candidates in a generation (mirrored: half as many directions).
        episodes_per_member: episodes of each member in a generation; fitness is their mean return.
        mirrored: evaluate every perturbation with both signs.
        rank: rank r of perturbations A Bᵀ/√r of matrices of more than r·(in + out) weights
            (EGGROLL); null: full rank. Rank 1 pays from dense layers 32 wide, rank 4 from 256; in
            convolutions rank 1 costs as much as full rank on a CPU.
        common_random_numbers: both signs of a perturbation start from the same reset.
        action_noise: standard deviation of Gaussian noise on actions while training.
        alive_bonus: fitness holds what a task pays for each step alive, as Hopper's or Ant's reward
            does; false leaves it out of training, as augmented random search does, so that standing
            still earns nothing. Evaluations always hold it.
        fall_cost: most that a fall costs in training without the alive bonus, in bonuses of a step:
            a fall in step t costs those of the steps t to fall_cost, and at least one. With more
            than 1 nothing is gained by falling at once.
        sigma: standard deviation of the perturbations, in units of the weights.
        sigma_per: what sigma is the standard deviation of: every weight's perturbation, or what the
            perturbations of the f weights that are tried into one output add up to, of which each
            has sigma/√f then. Steps do not change with f.
        sigma_decay: factor of a decay of sigma; generation t, counted from 1, has
            sigma · sigma_decay^⌊(1 + t)/sigma_decay_every⌋.
        sigma_decay_every: generations between two decays.
        shaping: map from fitness to utility.
        best_directions: mirrored perturbations that count, those whose better member is best; null:
            all. With shaping standardize and optimizer sgd of learning rate 2 · sigma · α this is
            augmented random search of step size α.
    """

    PREFIX = "algorithm."
    num_members: int = 32
    episodes_per_member: int = 1
    mirrored: bool = True
    rank: int | None = None
    common_random_numbers: bool = True
    action_noise: float = 0.0
    alive_bonus: bool = False
    fall_cost: int = 1
    sigma: float = 0.05
    sigma_per: Literal["weight", "output"] = "weight"
    sigma_decay: float = 1.0
    sigma_decay_every: int = 50
    shaping: Literal[
        "centered_rank", "centered_rank_by_order", "standardize", "wierstra", "identity"
    ] = "standardize"
    best_directions: int | None = None

    def _check(self) -> None:
        self._whole(1, "num_members", "episodes_per_member", "rank", "sigma_decay_every")
        self._whole(1, "best_directions", "fall_cost")
        self._finite(0.0, "action_noise")
        self._finite(0.0, "sigma", "sigma_decay", open_=True)
        if self.sigma_per == "output" and self.rank is not None:
            raise ValueError(
                f"algorithm.rank must be null where algorithm.sigma_per is output, got {self.rank}"
            )
        if self.mirrored and self.num_members % 2:
            raise ValueError(
                f"algorithm.num_members must be even if mirrored, got {self.num_members}; "
                "add one, or set algorithm.mirrored to false"
            )
        directions = self.num_members // 2 if self.mirrored else 0
        if self.best_directions is not None and self.best_directions > directions:
            raise ValueError(
                f"algorithm.best_directions must be at most {directions}, the mirrored directions "
                f"of {self.num_members} members, got {self.best_directions}"
            )


@dataclass(frozen=True)
class SparsityConfig(Section):
    """What keeps the policy sparse: the last transformation of the optimizer.

    Args:
        method: "hard_threshold" keeps the largest weights (NESHT). "selection" begins with none;
            those live that chance does not explain. Those of sparse training have masks over
            kernels, biases apart: "static" draws which weights live, once; "set" drops
            the smallest and grows others at random, "rigl" where the gradient is largest;
            "pruning" begins with all, and drops the smallest from begin to end. "none" keeps all
            (NES), as a fraction of 0 does.
        unit: what is kept or zeroed as one: a "weight", or a "row": all weights of an input, or of
            an input channel of filters, by their Euclidean norm.
        fraction: fraction β of the weights, or rows, that is zeroed.
        keep: number k of weights, or rows, that is kept, instead of a fraction; null: by fraction.
        begin: updates before the first decision which weights live: a thresholding, or a change of
            masks.
        end: updates after which there is none: what is zero then stays zero, and only what lives is
            trained on; null: no end. Of masks the number, counted from 0, of the last update
            that changes them; pruning needs one.
        every: updates between two decisions, which come after updates begin + 1, begin + 1 + every,
            ...
        drop: fraction of the living weights that set and rigl drop at first; it falls to 0 up to
            end, by a half cosine, or stays where there is none.
        explore: share of the dead weights that generations perturb, drawn anew with each
            decision. 1: all, as NESHT does. Perturbed weights of irrelevant inputs make actions
            random, so where inputs are many a tenth or less finds the relevant ones sooner. Methods
            with masks take 1 or 0; rigl perturbs all where the gradient says what grows.
        scope: which weights compete for the places: "all" together; those of one "layer", each with
            the same fraction; those of one kernel, with fractions by "erdos_renyi_kernel", biases
            left alone, as methods with masks leave them anyway.
        layers: layers that take part: first, last, or names as layer0; none means all, and of rows,
            or with selection, the first.
        exempt_bias: biases are never zeroed.
        rule: how hard_threshold sets its bar: "top_k" is exact; "stale_quantile" and
            "signed_quantile" reproduce published code.
        level: with selection, the share of what lives that may live by chance.
        forget_moments: set the optimizer's moments of a weight to zero when the weight is zeroed,
            so that momentum does not bring it back; the next gradient may.
    """

    PREFIX = "sparsity."
    method: Literal["hard_threshold", "selection", "static", "pruning", "set", "rigl", "none"] = (
        "hard_threshold"
    )
    unit: Literal["weight", "row"] = "weight"
    fraction: float = 0.0
    keep: int | None = None
    begin: int = 0
    end: int | None = None
    every: int = 10
    drop: float = 0.3
    explore: float = 1.0
    scope: Literal["all", "layer", "erdos_renyi_kernel"] = "all"
    layers: tuple[str, ...] = ()
    exempt_bias: bool = False
    rule: Literal["top_k", "stale_quantile", "signed_quantile"] = "top_k"
    level: float = 0.1
    forget_moments: bool = False

    def _check(self) -> None:
        self._whole(1, "every", "keep")
        self._whole(0, "begin")
        if self.end is not None:
            self._whole(self.begin + 1, "end")
        if not 0 <= self.fraction < 1:
            raise ValueError(
                f"sparsity.fraction must be in [0, 1), got {self.fraction}; to keep nothing makes "
                "no policy"
            )
        if not 0 <= self.explore <= 1:
            raise ValueError(f"sparsity.explore must be in [0, 1], got {self.explore}")
        if not 0 < self.level < 1:
            raise ValueError(f"sparsity.level must be in (0, 1), got {self.level}")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"sparsity.drop must be in [0, 1], got {self.drop}")
        self._check_together()
        if self.has_masks:
            self._check_masks()

    @property
    def cuts(self) -> bool:
        """Whether any weight may be zeroed."""
        counts = self.keep is not None or self.fraction > 0
        return self.selects or (self.method != "none" and counts)

    @property
    def has_masks(self) -> bool:
        """Whether the method is one of sparse training, whose masks change by their own rule."""
        return self.method in ("static", "pruning", "set", "rigl")

    @property
    def selects(self) -> bool:
        """Whether what lives is found by its significance."""
        return self.method == "selection"

    @property
    def thresholds(self) -> bool:
        """Whether weights are zeroed by thresholding the center."""
        return self.cuts and not (self.has_masks or self.selects)

    def _check_masks(self) -> None:
        """Refuses what goes with thresholding alone."""
        method = f"sparsity.method {self.method}"
        if self.unit == "row" or self.rule != "top_k":
            raise ValueError(f"{method} goes with unit weight and rule top_k")
        if self.explore not in (0, 1):
            raise ValueError(f"{method} takes sparsity.explore 0 or 1, got {self.explore}")
        if self.method == "pruning" and self.end is None:
            raise ValueError("sparsity.method pruning needs sparsity.end, its last update")
        if self.keep is not None and self.scope != "all":
            raise ValueError(f"{method}: sparsity.keep goes with scope all, got {self.scope}")
        if self.forget_moments:
            raise ValueError(f"{method} always forgets moments: leave sparsity.forget_moments out")

    def _check_together(self) -> None:
        """Refuses options that exclude each other."""
        if self.scope == "erdos_renyi_kernel":
            if self.rule != "top_k":
                raise ValueError(f"scope erdos_renyi_kernel goes with rule top_k, got {self.rule}")
            if self.unit == "row" or self.keep is not None:
                raise ValueError("scope erdos_renyi_kernel goes with unit weight and a fraction")
        if self.rule.endswith("_quantile") and (self.unit == "row" or self.keep is not None):
            raise ValueError(f"rule {self.rule} goes with unit weight and a fraction")
        if self.selects:
            if self.keep is not None:
                raise ValueError(
                    "sparsity.method selection finds how many to keep: leave sparsity.keep out"
                )
            if self.rule != "top_k" or self.forget_moments or self.scope == "erdos_renyi_kernel":
                raise ValueError(
                    "sparsity.rule, sparsity.forget_moments and scope erdos_renyi_kernel go with "
                    "method hard_threshold, and not with selection"
                )


@dataclass(frozen=True)
class PolicyConfig(Section):
    """The network, what it sees and what its outputs mean.

    Args:
        convolutions: layers before the dense ones, where the task shows images: "dqn2013" is 16
            filters 8x8/4 and 32 4x4/2, "nature" 32 8x8/4, 64 4x4/2 and 64 3x3/1, "impala" three
            residual sections of 16, 32 and 32 filters 3x3.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: function between layers.
        normalization: what is done to an observation first. "running": whitened by the moments of
            all observations so far; "observation": standardized across the features of the one
            observation (published MuJoCo code); "virtual_batch": every layer normalized by what it
            makes of 128 observations of random actions (OpenAI-ES on Atari); "none".
        clip: bound on features normalized by running moments, in standard deviations; .inf: none.
        output: from the last layer to actions. "scale": tanh mapped onto finite bounds, plain
            numbers where there are none (so also scores of choices); "clip": clipped to the
            bounds; "tanh": in -1 ... 1 whatever the bounds (published MuJoCo code); "sample": a
            choice drawn from the softmax of the scores.
        start: how the last layer begins: "normal", drawn at random, or "zero", so that every action
            begins at the middle of its bounds.
        kernel: how dense kernels are made: "dense", as they are; "toeplitz", of one weight a
            diagonal; "circulant", of one weight a diagonal that goes round; "masked", each entry
            with a gate, trained as the weights are.
        gate_cost: what fewer open gates are worth to masked kernels, in standardized fitness, at
            the end: the cost grows from 0 in proportion to the generation.
        gate_cost_generations: generations in which it grows.
    """

    PREFIX = "policy."
    convolutions: Literal["none", "dqn2013", "nature", "impala"] = "none"
    hidden: tuple[int, ...] = ()
    activation: Literal["tanh", "relu"] = "tanh"
    normalization: Literal["running", "observation", "virtual_batch", "none"] = "running"
    clip: float = 5.0
    output: Literal["scale", "clip", "tanh", "sample"] = "scale"
    start: Literal["normal", "zero"] = "zero"
    kernel: Literal["dense", "toeplitz", "circulant", "masked"] = "dense"
    gate_cost: float = 0.0
    gate_cost_generations: int = 100

    def _check(self) -> None:
        for width in self.hidden:
            if not 1 <= width < 2**31:
                raise ValueError(f"policy.hidden: a width must be at least 1, got {width}")
        if len(self.hidden) > MOST_LAYERS:
            raise ValueError(
                f"policy.hidden takes at most {MOST_LAYERS} layers, got {len(self.hidden)}"
            )
        if not self.clip > 0:
            raise ValueError(f"policy.clip must be positive, got {self.clip}")
        self._whole(1, "gate_cost_generations")
        if not 0 <= self.gate_cost <= 1:
            raise ValueError(f"policy.gate_cost must be in [0, 1], got {self.gate_cost}")
        if self.gate_cost and self.kernel != "masked":
            raise ValueError(f"policy.gate_cost is for kernel masked, got {self.kernel}")


@dataclass(frozen=True)
class SearchConfig(Section):
    """Search of an architecture beside the weights, at the cost of no further episode (ES-ENAS).

    Args:
        space: what is searched: "colors", which of a few shared weights each entry of the kernels
            is; "edges", which of them live, in a fixed number; or "mask", in any; "activations",
            the function of each hidden unit. None: nothing.
        controller: what proposes: "evolution" mutates winners of tournaments, "policy_gradient"
            draws by logits that follow PPO, "pointer_network" by a recurrent network that does so,
            of space edges, "random" draws uniformly.
        colors: shared weights of space colors; null: as many as features or actions, whichever are
            more.
        edges: entries of the kernels that live in space edges.
        num_center: members beyond algorithm.num_members that play the center, each with an
            architecture of its own, to rate these without noise.
        every: generations that keep their architectures; the controller learns from the last.
        samples: members, drawn anew each time, that the controller learns from; null: all.
        target: entries of the kernels above which the controller is paid less, in proportion; null:
            as many as are.
        learning_rate: step size of Adam on what policy_gradient and pointer_network draw by.
    """

    PREFIX = "search."
    space: tuple[Literal["colors", "edges", "mask", "activations"], ...] = ()
    controller: Literal["evolution", "policy_gradient", "pointer_network", "random"] = "evolution"
    colors: int | None = None
    edges: int = 64
    num_center: int = 0
    every: int = 1
    samples: int | None = None
    target: int | None = None
    learning_rate: float = 0.02

    def _check(self) -> None:
        self._whole(1, "colors", "edges", "every", "samples", "target")
        self._whole(0, "num_center")
        self._finite(0.0, "learning_rate", open_=True)
        if {"edges", "mask"} <= set(self.space):
            raise ValueError("search.space: edges and mask both say which entries live; take one")
        if self.controller == "pointer_network" and "edges" not in self.space:
            raise ValueError("search.controller pointer_network is for search.space edges")
        if len(set(self.space)) < len(self.space):
            raise ValueError(f"search.space: one is named twice in {', '.join(self.space)}")


@dataclass(frozen=True)
class AgentConfig(Section):
    """An agent that gradients train in place of an evolution strategy: a baseline.

    The policy is then the agent's, of ``policy.hidden``, and neither ``algorithm.*`` nor
    ``policy.start`` count. Masks of ``sparsity.*`` change by updates of the agent. The presets dqn,
    ppo and sac have what each needs.

    Args:
        name: "dqn", "ppo" or "sac"; null: an evolution strategy.
        steps_per_generation: environment steps, of all environments together, of which one row of
            the metrics tells.
        critic_fraction: fraction of the weights of critics that is zeroed; null: sparsity.fraction.
        discount: factor of rewards one step later.
        batch_size: steps that an update learns from.
        replay_size: steps that dqn and sac remember.
        random_steps: steps of dqn and sac at first that act at random and learn nothing.
        epsilon: share of dqn's later steps that act at random.
        target_every: updates of dqn from one copy of its network to the next.
        target_share: share by which sac's target critics move at an update.
        reward_scale: factor of sac's rewards.
        rollout: steps of each environment from one learning of ppo to the next.
        epochs: times that ppo learns from each step.
        clip: how far from 1 ppo rewards ratios of densities.
        trace: λ of ppo's advantages.
        normalize_rewards: ppo divides rewards by their deviation so far; not for tasks that always
            pay the same.
        max_gradient_norm: norm that gradients are cut to; null: none.
        learning_rate_decay: the learning rate falls to 0 in proportion to the steps, which the run
            then must be given.
        first_weights: what first weights of sparse kernels are: "dense", as of the dense agent;
            "scaled" to the numbers of living inputs; "glorot", drawn anew by the numbers of living
            inputs and outputs, as Graesser et al. 2022 do.
    """

    PREFIX = "agent."
    name: Literal["dqn", "ppo", "sac"] | None = None
    steps_per_generation: int = 1_000
    critic_fraction: float | None = None
    discount: float = 0.99
    batch_size: int = 128
    replay_size: int = 100_000
    random_steps: int = 1_000
    epsilon: float = 0.01
    target_every: int = 100
    target_share: float = 0.005
    reward_scale: float = 1.0
    rollout: int = 2_048
    epochs: int = 10
    clip: float = 0.2
    trace: float = 0.95
    normalize_rewards: bool = True
    max_gradient_norm: float | None = None
    learning_rate_decay: bool = False
    first_weights: Literal["dense", "scaled", "glorot"] = "dense"

    def _check(self) -> None:
        self._whole(1, "steps_per_generation", "batch_size", "replay_size", "target_every")
        self._whole(1, "rollout", "epochs")
        self._whole(0, "random_steps")
        self._finite(0.0, "reward_scale", open_=True)
        for name in ("discount", "epsilon", "target_share", "clip", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"agent.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.critic_fraction is not None and not 0 <= self.critic_fraction < 1:
            raise ValueError(f"agent.critic_fraction must be in [0, 1), got {self.critic_fraction}")
        if self.max_gradient_norm is not None:
            self._finite(0.0, "max_gradient_norm", open_=True)


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """Any optimizer of optax, or ClipUp.

    Args:
        name: name of the optimizer in optax: adam, sgd, adamw, ...; or clipup, whose steps have one
            length.
        learning_rate: step size. With shaping standardize and sgd it is 2 · sigma times the step
            size of augmented random search.
        weight_decay: coefficient of coupled L2 decay: weight_decay · θ is added to the gradient of
            the loss.
        options: further arguments of the optimizer, by their optax names.
    """

    PREFIX = "optimizer."
    name: str = "sgd"
    learning_rate: float = 0.002
    weight_decay: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def _check(self) -> None:
        self._finite(0.0, "weight_decay")
        self._finite(0.0, "learning_rate", open_=True)


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Evaluations of the thresholded center while training.

    Args:
        every: generations between two evaluations.
        episodes: episodes of one evaluation.
        horizon: steps after which an episode of an evaluation is cut; as in training if null.
    """

    PREFIX = "evaluation."
    every: int = 10
    episodes: int = 10
    horizon: int | None = None

    def _check(self) -> None:
        self._whole(1, "every", "episodes", "horizon")
