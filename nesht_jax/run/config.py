"""What a run is made of. A YAML file holds only what differs from the defaults here."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from nesht_jax.run.fields import checked

DEFAULT_STEPS = 1_000_000
"""Useful steps of a run that is told neither steps nor generations: minutes on two cores."""

MOST_LAYERS = 64
"""Hidden layers of a policy; of thousands, which a damaged file may name, no end would be seen."""

CHANGEABLE = ("generations", "steps", "track")
"""Options that a resumed run may change."""


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
        sigma: standard deviation of the perturbations, in units of the weights.
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
    sigma: float = 0.05
    sigma_decay: float = 1.0
    sigma_decay_every: int = 50
    shaping: Literal[
        "centered_rank", "centered_rank_by_order", "standardize", "wierstra", "identity"
    ] = "standardize"
    best_directions: int | None = None

    def _check(self) -> None:
        self._whole(1, "num_members", "episodes_per_member", "rank", "sigma_decay_every")
        self._whole(1, "best_directions")
        self._finite(0.0, "action_noise")
        self._finite(0.0, "sigma", "sigma_decay", open_=True)
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


@dataclass(frozen=True)
class Config(Section):
    """One training run.

    Args:
        task: task as suite/name; `nesht envs` lists them.
        task_options: options of the simulator by its own names, of any YAML type: {backend: spring}
            for Brax, {num_threads: 2} for envpool, {vectorization_mode: async} for Gymnasium, ....
        distractors: N of ×N: N times as many irrelevant features follow the true observation,
            N(0, 1) or, where the task shows bytes, uniform on 0 ... 255.
        distractor_kind: how these behave: "normal", fresh at every step; "scaled", of standard
            deviation 10; "slow", N(0, 1) that change within 20 steps; "driven", components of the
            last action plus N(0, 1); "marginal", each a value of its true twin in random play;
            "replayed", observations of other episodes.
        horizon: steps after which an episode is cut; the task's own if null.
        horizon_growth: factor by which the horizon of training grows every horizon_growth_every
            generations, up to that of evaluations or, if that is null, the task's own.
        horizon_growth_every: generations from one horizon to the next.
        num_envs: environments stepped at once, in every suite but envpool, by a share where there
            are several; null: the suite's own choice.
        shares: parts of equal size, a power of two, that the population is cut into, to be played
            on as many devices or fewer; results depend on it, and not on the devices. null: as many
            as there are devices or, of simulators outside JAX, processes.
        algorithm: the evolution strategy.
        sparsity: what keeps the policy sparse.
        policy: the network.
        search: search of its architecture.
        agent: an agent trained by gradients in place of the evolution strategy.
        optimizer: what turns the gradient into a step.
        evaluation: evaluations while training.
        steps: useful environment steps to train for: the generation that reaches them is the last;
            null: no limit, or one million if generations have none either.
        generations: updates to do; null: as many as steps allow.
        checkpoint_every: generations between two checkpoints.
        seed: seed of all that is drawn in the run.
        track: where the metrics are shown while they come: by "tensorboard", "wandb" (Weights &
            Biases) or "trackio"; null: in metrics.jsonl alone.
        out: run folder; null makes one under runs/, named after the config.
    """

    task: str
    task_options: dict[str, Any] = field(default_factory=dict)
    distractors: int = 0
    distractor_kind: Literal["normal", "scaled", "slow", "driven", "marginal", "replayed"] = (
        "normal"
    )
    horizon: int | None = None
    horizon_growth: float = 1.0
    horizon_growth_every: int = 100
    num_envs: int | None = None
    shares: int | None = None
    algorithm: AlgorithmConfig = AlgorithmConfig()
    sparsity: SparsityConfig = SparsityConfig()
    policy: PolicyConfig = PolicyConfig()
    search: SearchConfig = SearchConfig()
    agent: AgentConfig = AgentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    steps: int | None = None
    generations: int | None = None
    checkpoint_every: int = 10
    seed: int = 0
    track: Literal["tensorboard", "wandb", "trackio"] | None = None
    out: str | None = None

    def _check(self) -> None:
        self._whole(1, "horizon", "horizon_growth_every", "num_envs", "generations")
        self._whole(1, "checkpoint_every")
        self._finite(1.0, "horizon_growth")
        if self.horizon_growth > 1 and self.horizon is None:
            raise ValueError("horizon_growth needs horizon, the steps of the first episodes")
        if self.shares is not None:
            self._check_shares(self.shares)
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        self._whole(0, "distractors", "seed")
        if self.structured:
            self._check_structure()
        if self.agent.name is not None:
            self._check_agent()
        if self.sparsity.has_masks and (self.sparsity.cuts or self.has_sparse_critics):
            self._check_within_run()

    def _check_shares(self, shares: int) -> None:
        """Refuses shares that the population is not cut into."""
        if shares == 1:
            return
        if self.agent.name is not None:
            raise ValueError(f"agent.name {self.agent.name} has no population: leave shares out")
        if shares < 1 or shares & (shares - 1):
            raise ValueError(f"shares must be a power of two, got {shares}")
        if self.most_shares % shares:
            raise ValueError(
                f"shares must divide {self.most_shares}, as the members and directions of the "
                f"population are to be shared evenly, got {shares}"
            )

    def _check_agent(self) -> None:
        """Refuses what does not go with an agent."""
        agent = f"agent.name {self.agent.name}"
        if self.structured:
            raise ValueError(f"{agent}: leave search.space and policy.kernel out")
        if self.sparsity.cuts and not self.sparsity.has_masks:
            raise ValueError(f"{agent} takes sparsity.method static, set, rigl or pruning")
        if self.sparsity.layers or self.sparsity.explore != 1:
            raise ValueError(f"{agent}: leave sparsity.layers and sparsity.explore out")
        if self.agent.critic_fraction is not None:
            if self.agent.name == "dqn":
                raise ValueError(f"{agent} has no critic: leave agent.critic_fraction out")
            if not self.sparsity.has_masks:
                raise ValueError(
                    "agent.critic_fraction needs sparsity.method static, set, rigl or pruning, got "
                    f"{self.sparsity.method}"
                )
        elif self.sparsity.keep is not None and self.agent.name != "dqn":
            raise ValueError(
                f"{agent}: sparsity.keep is of the actor; say agent.critic_fraction too"
            )
        if self.horizon_growth > 1:
            raise ValueError(f"{agent}: leave horizon_growth out, got {self.horizon_growth}")
        wanted = {
            "dqn": {"activation": "relu", "normalization": "none", "output": "scale"},
            "sac": {"activation": "relu", "normalization": "none", "output": "scale"},
            "ppo": {"activation": "tanh", "normalization": "running", "output": "scale"},
        }[str(self.agent.name)]
        for name, value in wanted.items():
            if getattr(self.policy, name) != value:
                raise ValueError(
                    f"{agent} needs policy.{name} {value}, as the preset {self.agent.name} has it, "
                    f"got {getattr(self.policy, name)}"
                )
        if not self.policy.hidden or self.policy.convolutions != "none":
            raise ValueError(f"{agent} needs hidden layers and no convolutions: set policy.hidden")
        if self.agent.learning_rate_decay and self.steps is None:
            raise ValueError("agent.learning_rate_decay needs steps, at whose end it is 0")
        num_envs, chosen = self.num_envs or 1, self.agent
        if chosen.name == "ppo" and num_envs * chosen.rollout % chosen.batch_size:
            raise ValueError(
                f"agent.rollout times num_envs must be a multiple of agent.batch_size, "
                f"{chosen.batch_size}, got {chosen.rollout} times {num_envs}"
            )
        if chosen.name != "ppo" and max(num_envs, chosen.batch_size) > chosen.replay_size:
            raise ValueError(
                "agent.replay_size must hold num_envs and agent.batch_size, "
                f"{max(num_envs, chosen.batch_size)}, got {chosen.replay_size}"
            )

    def _check_within_run(self) -> None:
        """Refuses masks that change beyond the run."""
        chosen, limit, unit = self.sparsity, self.generations, "generations"
        if self.agent.name is not None:
            limit, unit = self.num_updates, "updates"
        if chosen.method == "static" or limit is None:
            return
        if chosen.every > limit:
            raise ValueError(
                f"sparsity.every must be at most the {limit} {unit}, got {chosen.every}"
            )
        if chosen.end is not None and chosen.end >= limit:
            raise ValueError(f"sparsity.end must be below the {limit} {unit}, got {chosen.end}")

    @property
    def num_updates(self) -> int | None:
        """Updates of an agent in the whole run; None if no number of steps ends it."""
        chosen, num_envs = self.agent, self.num_envs or 1
        steps = self.step_limit
        if self.generations is not None:
            most = self.generations * chosen.steps_per_generation
            steps = most if steps is None else min(steps, most)
        if steps is None:
            return None
        if chosen.name == "ppo":
            learnings = steps // (num_envs * chosen.rollout)
            return learnings * chosen.epochs * (num_envs * chosen.rollout // chosen.batch_size)
        return max(0, steps - chosen.random_steps) // num_envs

    def _check_structure(self) -> None:
        """Refuses what does not go with structured kernels, or with a search."""
        searched = set(self.search.space)
        if self.sparsity.cuts and self.sparsity.has_masks:
            raise ValueError(
                f"sparsity.method {self.sparsity.method} is for plain dense kernels: leave "
                "search.space and policy.kernel out"
            )
        if self.algorithm.rank is not None:
            raise ValueError(
                "algorithm.rank must be null where an architecture is searched or kernels have a "
                f"structure, got {self.algorithm.rank}"
            )
        if "colors" in searched and self.policy.kernel != "dense":
            raise ValueError(
                f"search.space colors shares the weights of dense kernels, got {self.policy.kernel}"
            )
        if searched and self.generations is not None and self.search.every > self.generations:
            raise ValueError(
                f"search.every must be at most the {self.generations} generations, or the "
                f"controller never learns, got {self.search.every}"
            )
        if "activations" in searched and not self.policy.hidden:
            raise ValueError("search.space activations needs hidden layers: set policy.hidden")
        loose = {"toeplitz", "circulant"} & {self.policy.kernel} or {"colors"} & searched
        by_input = self.sparsity.unit == "row" or self.sparsity.selects
        if loose and self.sparsity.cuts and by_input:
            raise ValueError(
                f"kernels that share weights ({loose.pop()}) have no rows of their own: set "
                "sparsity.unit weight, and another method than selection"
            )

    @property
    def structured(self) -> bool:
        """Whether a policy's params are made of something else: an architecture, or fewer."""
        return bool(self.search.space) or self.policy.kernel != "dense"

    @property
    def has_sparse_critics(self) -> bool:
        """Whether an agent's critics are sparse."""
        fraction = self.agent.critic_fraction
        chosen = self.sparsity.fraction if fraction is None else fraction
        return self.agent.name in ("ppo", "sac") and self.sparsity.has_masks and chosen > 0

    @property
    def num_played(self) -> int:
        """Members of a generation, those that play the center of a search included."""
        return self.algorithm.num_members + (self.search.num_center if self.search.space else 0)

    @property
    def most_shares(self) -> int:
        """The most shares of equal size, a power of two, that the population can be cut into, with
        mirrored pairs left together."""
        pair = 2 if self.algorithm.mirrored else 1
        units = math.gcd(self.algorithm.num_members // pair, self.num_played // pair)
        whole = self.num_played % pair == 0
        return units & -units if whole and self.agent.name is None else 1

    @property
    def num_evaluation_envs(self) -> int | None:
        """Environments that evaluations step at once; those of an agent are its own."""
        return self.num_envs if self.agent.name is None else None

    @property
    def last_generation(self) -> int:
        """The generation after which training ends, if no limit of steps ends it sooner."""
        return 2**31 - 1 if self.generations is None else self.generations

    @property
    def step_limit(self) -> int | None:
        """The useful steps after which training ends; None if only generations end it."""
        return DEFAULT_STEPS if self.steps is None and self.generations is None else self.steps

    @property
    def method(self) -> str:
        """What the algorithm is called in the literature."""
        own_names = {"set": "SET", "rigl": "RigL"}
        dense = "NES" if self.agent.name is None else self.agent.name.upper()
        chosen = self.sparsity.method
        own = f"{dense}-{own_names.get(chosen, chosen)}"
        own = "NESHT" if self.sparsity.thresholds else own
        weights = own if self.sparsity.cuts or self.has_sparse_critics else dense
        return f"{weights}-ENAS" if self.search.space else weights

    @property
    def folder(self) -> Path:
        """The run folder: ``out``, or a name that no other settings share."""
        if self.out is not None:
            return Path(self.out)
        task = self.task.replace("/", "-").replace(":", "-")
        name = f"{task}-x{self.distractors}-{self.method.lower()}-seed{self.seed}"
        return Path("runs") / f"{name}-{self.digest[:6]}"

    @property
    def digest(self) -> str:
        """Hexadecimal digest of all that a resumed run may not change."""
        kept: dict[str, Any] = dataclasses.asdict(self) | {
            "generations": None,
            "steps": None,
            "out": None,
        }
        if self.agent.learning_rate_decay:
            kept["steps"] = self.steps
        # what is not used would give other names to the folders of earlier versions
        del kept["track"]
        if self.shares in (None, 1):
            del kept["shares"]
        if self.agent.name is None:
            del kept["agent"]
        if not self.sparsity.has_masks:
            del kept["sparsity"]["drop"]
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
