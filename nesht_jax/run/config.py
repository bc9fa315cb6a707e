"""What a run is made of. A YAML file holds only what differs from the defaults here."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nesht_jax.run.sections import (
    AgentConfig,
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SearchConfig,
    Section,
    SparsityConfig,
)

DEFAULT_STEPS = 1_000_000
"""Useful steps of a run that is told neither steps nor generations: minutes on two cores."""

CHANGEABLE = ("generations", "steps", "track")
"""Options that a resumed run may change."""


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
        if self.out == "":
            raise ValueError("out must name a folder, got an empty text")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        self._whole(0, "distractors", "seed")
        if self.structured:
            self._check_structure()
        if self.agent.name is not None:
            self._check_agent()
        elif self.agent.learning_rate_decay:
            raise ValueError("agent.learning_rate_decay is of an agent: set agent.name")
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
        if self.num_agent_steps >= 2**31:
            raise ValueError(
                f"an agent counts fewer than 2^31 steps, got {self.num_agent_steps}: set steps"
            )
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
    def num_agent_steps(self) -> int:
        """Environment steps of an agent in the whole run, at most."""
        by_generations = (self.generations or 0) * self.agent.steps_per_generation
        limits = (self.step_limit, None if self.generations is None else by_generations)
        return min(limit for limit in limits if limit is not None)

    @property
    def num_updates(self) -> int:
        """Updates of an agent in the whole run."""
        chosen, num_envs, steps = self.agent, self.num_envs or 1, self.num_agent_steps
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
        chosen = self.sparsity
        if loose and chosen.cuts and (chosen.unit == "row" or chosen.selects):
            raise ValueError(
                f"kernels that share weights ({loose.pop()}) have no rows of their own: set "
                "sparsity.unit weight, and another method than selection"
            )
        if loose and chosen.thresholds and chosen.scope == "erdos_renyi_kernel":
            raise ValueError(
                f"kernels that share weights ({loose.pop()}) have no shape to keep a share by: set "
                "sparsity.scope all or layer"
            )
        if "colors" in searched and chosen.thresholds and chosen.layers:
            raise ValueError(
                "search.space colors shares weights between layers: leave sparsity.layers out"
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
