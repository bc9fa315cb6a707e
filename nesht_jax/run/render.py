"""A film of a trained policy: the body, and beside it what its sensors show and which it reads."""

import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from nesht_jax.envs.tasks import make_stage
from nesht_jax.policy.normalize import running_scale
from nesht_jax.run.ambient import pinned
from nesht_jax.run.evaluate import evaluation_task
from nesht_jax.run.load import TrainedPolicy, load
from nesht_jax.run.policies import Which

Picture = UInt8[np.ndarray, "height width 3"]

RATE = 25
"""Pictures a second of a film, at most; it is as fast as life."""

LONGEST_FILM = 20.0
"""Seconds after which a film ends, unless it is told when."""

MOST_SENSORS = 24
"""Bars beside the body."""

FULL = 3.0
"""Standard deviations that fill a bar."""

FORMATS = (".webp", ".gif", ".mp4")
"""Endings of the files that a film can be written to."""

READ, UNREAD, INK, PAPER = (31, 119, 180), (200, 200, 200), (40, 40, 40), (255, 255, 255)


class Film(NamedTuple):
    """Pictures of an episode.

    Attributes:
        pictures: pictures, all of one size.
        seconds: time from one to the next.
        task: name of the task that was played.
        total: undiscounted return of the episode.
        steps: length of the episode.
        over: whether it ended before the film did.
    """

    pictures: list[Picture]
    seconds: float
    task: str
    total: float
    steps: int
    over: bool


@pinned()
def film(
    folder: Path,
    *,
    generation: Which | None = None,
    seed: int = 0,
    steps: int | None = None,
    trust: bool = False,
) -> Film:
    """Films one episode of what a run has learned, as sparse as its method makes it.

    Args:
        folder: run folder.
        generation: see ``load``.
        seed: seed of reset and distractors.
        steps: steps after which the film ends, if the episode goes on for so long; by default as
            many as fill ``LONGEST_FILM``.
        trust: see ``load``.

    Raises:
        ValueError: if the run does not read or is not trusted, or nothing draws its task.
    """
    check_film(seed, steps)
    policy = load(folder, generation, trust=trust)
    return played(policy, Bars(policy).beside, seed=seed, steps=steps)


def played(
    policy: TrainedPolicy,
    draw: Callable[[Picture, Float[np.ndarray, " features"], str], Picture],
    *,
    seed: int,
    steps: int | None,
) -> Film:
    """Films one episode of a policy.

    Args:
        policy: a trained policy.
        draw: (the body, what the policy sees, return and step in words) -> picture of the film.
        seed: seed of reset and distractors.
        steps: see ``film``.

    Raises:
        ValueError: if nothing draws the task.
    """
    stage, task = make_stage(evaluation_task(policy.config, policy.task), seed=seed)
    with closing(stage):
        every = max(1, round(1 / (RATE * stage.seconds)))
        last, rng = steps or round(LONGEST_FILM / stage.seconds), np.random.default_rng(seed)
        seen, total, done, over = stage.reset(), 0.0, 0, False
        pictures = [draw(stage.picture(), seen, "return 0 · step 0")]
        while not over and done < last:
            scores = policy.scores(seen)
            if policy.policy.stochastic:
                scores = scores + rng.gumbel(size=scores.shape).astype(np.float32)
            seen, reward, over = stage.step(scores)
            total, done = total + reward, done + 1
            if done % every == 0 or over:
                caption = f"return {total:.0f} · {'over at ' * over}step {done}"
                pictures.append(draw(stage.picture(), seen, caption))
    return Film(pictures, every * stage.seconds, task.name, total, done, over)


class Bars:
    """Draws what each sensor shows, those that the policy reads in color.

    Args:
        policy: a trained policy; one that looks at images has no bars.
    """

    def __init__(self, policy: TrainedPolicy) -> None:
        self._font = ImageFont.load_default(13)
        self._moments, reading = policy.moments, policy.reading
        self._largest = np.full(policy.task.observation_size, 1e-8)
        self._sensors: list[tuple[int, str, bool]] = []
        if reading is not None:
            read = reading.read[0]
            order = np.argsort(~read, kind="stable")[:MOST_SENSORS]
            self._sensors = [(int(i), reading.sensors[i], bool(read[i])) for i in np.sort(order)]

    def beside(
        self, picture: Picture, seen: Float[np.ndarray, " features"], caption: str
    ) -> UInt8[np.ndarray, "tall wide 3"]:
        """A picture with its caption, and the bars to its right."""
        height, width, _ = picture.shape
        wide = 260 if self._sensors else 0
        tall = max(height, 22 * len(self._sensors) + 12)
        page = Image.new("RGB", (multiple(width + wide), multiple(tall + 24)), PAPER)
        page.paste(Image.fromarray(picture), (0, 24))
        draw = ImageDraw.Draw(page)
        draw.text((8, 4), caption, INK, self._font)
        values = self._standardized(seen)
        for row, (i, name, is_read) in enumerate(self._sensors):
            top = 24 + 8 + 22 * row
            ink = INK if is_read else UNREAD
            draw.text((width + 8, top), name, ink, self._font)
            middle, half = width + 195, 55
            end = middle + half * float(np.clip(values[i] / FULL, -1, 1))
            box = (min(middle, end), top + 2, max(middle, end), top + 14)
            draw.rectangle(box, READ if is_read else UNREAD)
            draw.line((middle, top, middle, top + 16), INK)
        return np.asarray(page)

    def _standardized(self, seen: Float[np.ndarray, " features"]) -> Float[np.ndarray, " o"]:
        """The true sensors in standard deviations of training; else in their largest so far."""
        shown = seen[: self._largest.size]
        if self._moments is not None:
            spread = np.asarray(running_scale(self._moments))
            return ((seen - np.asarray(self._moments.mean)) / spread)[: shown.size]
        self._largest = np.maximum(self._largest, np.abs(shown))
        return FULL * shown / self._largest


def multiple(size: int) -> int:
    """The next multiple of 16: films are cut into blocks of 16 pixels."""
    return -(-size // 16) * 16


def check_film(seed: int, steps: int | None) -> None:
    """Refuses a seed that is none, and a film without steps.

    Raises:
        ValueError: naming what it got.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def check_format(path: Path) -> None:
    """Refuses a file that no film can be written to.

    Raises:
        ValueError: naming what can, or what must be installed.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"a film ends in {', '.join(FORMATS)}, got {path}")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError("mp4 needs imageio-ffmpeg: pip install 'nesht-jax[render]'")


def write_film(pictures: Sequence[Picture], path: Path, *, seconds: float) -> None:
    """Writes pictures of one size, these seconds apart, by the ending of the file's name."""
    if path.suffix == ".mp4":
        _write_mp4(pictures, path, seconds=seconds)
        return
    first, *others = (Image.fromarray(picture) for picture in pictures)
    milliseconds = round(1000 * seconds)
    options: dict[str, Any] = {"quality": 60, "method": 3} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, **options)


def _write_mp4(pictures: Sequence[Picture], path: Path, *, seconds: float) -> None:
    """H.264, which every browser plays."""
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width, _ = pictures[0].shape
    given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {1 / seconds:g} -i -".split()
    wanted = "-c:v libx264 -pix_fmt yuv420p -movflags +faststart".split()
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *given, *wanted, str(path)]
    told = subprocess.run(
        command, input=b"".join(map(np.ndarray.tobytes, pictures)), stderr=subprocess.PIPE
    )
    if told.returncode:
        words = told.stderr.decode(errors="replace").strip()
        raise OSError(f"ffmpeg could not write {path}: {words}")
