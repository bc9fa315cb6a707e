"""What a run is made of. A YAML file holds only what differs from the defaults here."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import optax
import yaml

from nesht_jax.policy import Output
from nesht_jax.threshold import Rule, num_kept

Value = int | float | bool | str


def nearest(given: str, valid: Iterable[str]) -> str:
    """A clause that names the nearest valid names."""
    close = difflib.get_close_matches(given, list(valid), n=3, cutoff=0.5)
    return ("did you mean " if close else "valid are ") + ", ".join(close or sorted(valid))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The optimizers of the installed optax, by name."""
    return {
        name: make
        for name, make in vars(optax).items()
        if name.islower()
        and inspect.isfunction(make)
        and next(iter(inspect.signature(make).parameters), None) == "learning_rate"
    }


@dataclass(frozen=True)
class PolicyConfig:
    """The network.

    Args:
        convolutions: before the dense layers, where the task shows frames: "dqn2013" is 16 filters
            8x8/4 and 32 4x4/2, "nature" 32 8x8/4, 64 4x4/2 and 64 3x3/1, "impala" three residual
            sections of 16, 32 and 32 filters 3x3.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: between layers.
        normalization: of what the network sees. "observation": across the features of the one
            observation (published code); "running": by the moments of all observations so far;
            "virtual_batch": every layer by what it makes of 128 observations of random actions
            (OpenAI-ES on Atari; envpool only); "none".
        clip: bound on running-normalised features.
        output: "tanh" as it is; "clip" to the action bounds; "scale": tanh onto the bounds. Where
            an action is chosen by the highest score, "clip" leaves scores as they are, "tanh"
            saturates, and "sample" draws an action from their softmax.
    """

    convolutions: Literal["none", "dqn2013", "nature", "impala"] = "none"
    hidden: tuple[int, ...] = ()
    activation: Literal["tanh", "relu"] = "tanh"
    normalization: Literal["observation", "running", "virtual_batch", "none"] = "observation"
    clip: float = 5.0
    output: Output = "tanh"

    def __post_init__(self) -> None:
        for width in self.hidden:
            _require(width >= 1, f"policy.hidden: a width must be at least 1, got {width}")
        _require(self.clip > 0, f"policy.clip must be positive, got {self.clip}")


@dataclass(frozen=True)
class OptimizerConfig:
    """Any optimizer of optax.

    Args:
        name: as optax calls it: adam, sgd, adamw, ….
        learning_rate: α, the step size.
        weight_decay: coupled L2: adds weight_decay · θ to the gradient of the loss.
        options: its further arguments, by their optax names.
    """

    name: str = "adam"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    options: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = optimizers()
        _require(
            self.name in known,
            f"optimizer.name: optax has no optimizer {self.name!r}; {nearest(self.name, known)}",
        )
        valid = [p for p in inspect.signature(known[self.name]).parameters if p != "learning_rate"]
        for option in self.options:
            _require(
                option in valid,
                f"optimizer.options: {self.name} has no {option!r}; {nearest(option, valid)}",
            )
        _require(self.weight_decay >= 0, "optimizer.weight_decay must not be negative")


@dataclass(frozen=True)
class ThresholdConfig:
    """Hard thresholding H_k, the last link of the optimizer.

    Args:
        sparsity: β, the fraction of weights zeroed; 0 is plain NES.
        every: threshold updates 1, 1 + every, 1 + 2·every, ….
        scope: who competes for the k places: "all" weights together; those of one "layer", with
            the same β; those of one kernel, with k by "erdos_renyi_kernel", biases left alone.
        leaves: names of the only weights that take part, as layer0/kernel; none means all.
        exempt_bias: biases are never zeroed.
        rule: "top_k" is exact; "stale_quantile" and "signed_quantile" reproduce published code.
        mask_moments: zero the optimizer's moments of zeroed weights, so that they stay zero.
    """

    sparsity: float = 0.9
    every: int = 10
    scope: Literal["all", "layer", "erdos_renyi_kernel"] = "all"
    leaves: tuple[str, ...] = ()
    exempt_bias: bool = False
    rule: Rule = "top_k"
    mask_moments: bool = False

    def __post_init__(self) -> None:
        num_kept(1, self.sparsity)
        _require(self.every >= 1, f"threshold.every must be at least 1, got {self.every}")


@dataclass(frozen=True)
class Config:
    """One training run.

    Args:
        task: room/name; `nesht envs` lists them.
        task_options: options of the simulator, by its own names: {backend: spring} for Brax,
            {num_threads: 2} for envpool, {vectorization_mode: async} for Gymnasium, ….
        noise: N of ×N: after the true observation come N times as many features, N(0, 1) or, where
            bytes are shown as in Atari, uniform on 0 … 255.
        horizon: steps after which an episode is cut; the task's own if null.
        evaluate_horizon: the same in evaluations; as in training if null.
        rollouts: episodes of each member in a generation.
        slots: episodes played at once, in every room but envpool; null: the room's own choice.
        members: candidates in a generation (mirrored: half as many directions).
        mirrored: evaluate every perturbation with both signs.
        rank: r of low-rank perturbations A Bᵀ/√r, for matrices of more than r·(in + out) weights
            (EGGROLL); null: full rank. Rank 1 pays from dense layers 32 wide, rank 4 from
            256; in convolutions rank 1 costs as much as full rank on a CPU.
        common_random_numbers: both signs of a perturbation start from the same reset.
        action_noise: standard deviation of Gaussian noise on actions while training.
        sigma: scale of the perturbations.
        sigma_decay: with t counted from 1, σ_t = sigma · sigma_decay^⌊(1 + t)/sigma_decay_every⌋.
        sigma_decay_every: generations between two decays.
        shaping: fitness to utility.
        optimizer: what turns the gradient into a step.
        threshold: what keeps the policy sparse.
        policy: the network.
        generations: updates to do.
        evaluate_every: generations between two evaluations of the thresholded centre.
        evaluate_episodes: episodes of one evaluation.
        checkpoint_every: generations between two checkpoints.
        seed: of everything.
        out: the run folder; null makes one under runs/ named after task, noise, β and seed.
    """

    task: str = "probe/linear"
    task_options: dict[str, Value] = field(default_factory=dict)
    noise: int = 0
    horizon: int | None = None
    evaluate_horizon: int | None = None
    rollouts: int = 1
    slots: int | None = None
    members: int = 256
    mirrored: bool = True
    rank: int | None = None
    common_random_numbers: bool = True
    action_noise: float = 0.0
    sigma: float = 0.1
    sigma_decay: float = 1.0
    sigma_decay_every: int = 50
    shaping: Literal[
        "centered_rank", "centered_rank_by_order", "standardize", "wierstra", "identity"
    ] = "centered_rank"
    optimizer: OptimizerConfig = OptimizerConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    policy: PolicyConfig = PolicyConfig()
    generations: int = 100
    evaluate_every: int = 10
    evaluate_episodes: int = 10
    checkpoint_every: int = 10
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("rollouts", "members", "sigma_decay_every", "generations", "evaluate_every",
                     "evaluate_episodes", "checkpoint_every"):  # fmt: skip
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, "
                     f"got {getattr(self, name)}")  # fmt: skip
        for name in ("noise", "action_noise", "seed"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, "
                     f"got {getattr(self, name)}")  # fmt: skip
        for name in ("horizon", "evaluate_horizon", "slots", "rank"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1 or null, got {value}")
        for name in ("sigma", "sigma_decay"):
            _require(0 < getattr(self, name) < math.inf, f"{name} must be positive, "
                     f"got {getattr(self, name)}")  # fmt: skip
        _require(
            not (self.mirrored and self.members % 2),
            f"members must be even if mirrored, got {self.members}; "
            "add one, or set mirrored to false",
        )

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.task}-x{self.noise}-beta{self.threshold.sparsity}-seed{self.seed}"
        return Path(self.out or Path("runs") / name.replace("/", "-"))


def dump(config: Config) -> str:
    """The config as YAML that reads back to itself."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def add_config_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Every field of ``Config`` as an option, and ``--config`` for YAML files."""
    parser.add_argument("--config", action="config", help="a YAML file; may be repeated")
    parser.add_class_arguments(Config)


def from_arguments(parser: jsonargparse.ArgumentParser, given: jsonargparse.Namespace) -> Config:
    """The config that parsed options make."""
    made = vars(parser.instantiate(given))
    return Config(**{f.name: made[f.name] for f in dataclasses.fields(Config)})


def read_config(folder: Path) -> Config:
    """The config of a run folder.

    Raises:
        ValueError: if the folder is missing, or is not a run.
        argparse.ArgumentError: if its config does not read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    add_config_arguments(parser)
    given = parser.parse_args([f"--config={folder / 'config.yaml'}"])
    return dataclasses.replace(from_arguments(parser, given), out=str(folder))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
