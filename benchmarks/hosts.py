"""What a run of several processes survives: one that dies, hangs, raises, or is another.

    python benchmarks/hosts.py --runs /tmp/hosts

Every trial is of a small run in two processes of this machine, which speak to each other as those
of two machines do; a row a trial goes into the table. Exit code: the number of broken promises.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measuring import Row, command, write

from nesht_jax.report.rows import read_rows

LIMIT = 60.0
"""Seconds within which the others must end."""

GENERATIONS = 12
ENDLESS = 10_000_000

HURT = '''
"""CartPole that hangs or raises in one process, after some steps."""

import os
import time

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Hurt(CartPoleEnv):
    steps = 0

    def step(self, action):
        Hurt.steps += 1
        if os.environ["JAX_PROCESS_ID"] == "1" and Hurt.steps > 2000:
            if os.environ["HURT"] == "hangs":
                time.sleep(600)
            raise RuntimeError("this environment is hurt")
        return super().step(action)


gymnasium.register("Hurt-v0", Hurt)
'''

PROBE = "probe/linear --distractors 1 --algorithm.num_members 16"
COMMON = "--evaluation.every 4 --evaluation.episodes 4 --checkpoint_every 1 --shares 4"


class Trial(NamedTuple):
    """One try.

    Attributes:
        promise: what must hold.
        trial: what was done.
        held: whether it held.
        seconds: time until the last of the others had ended.
        codes: exit codes of the processes.
        words: what the others said last.
    """

    promise: str
    trial: str
    held: bool
    seconds: float
    codes: str
    words: str


class Processes:
    """The processes of one run.

    Args:
        words: command line of each.
        own: further environment variables of all.
    """

    def __init__(self, words: list[str], **own: str) -> None:
        address, number = f"127.0.0.1:{free_port()}", str(len(words))
        self.codes: list[int | None] = [None] * len(words)
        self._logs = [Path(f"log{i}") for i in range(len(words))]
        self._children = []
        for i, line in enumerate(words):
            place = {"JAX_NUM_PROCESSES": number, "JAX_PROCESS_ID": str(i)}
            environment = os.environ | own | place | {"JAX_COORDINATOR_ADDRESS": address}
            with open(self._logs[i], "wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "nesht_jax.run.cli", *line.split()],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._children.append(child)

    def send(self, i: int, number: int) -> None:
        """Sends a signal to one."""
        self._children[i].send_signal(number)

    def until(self, holds: Callable[[], object], *, limit: float = 300) -> None:
        """Waits until something holds, all have ended, or it is too late."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline and not holds() and self._alive():
            time.sleep(0.02)

    def wait(self, *, but: int | None = None, limit: float = 300) -> float:
        """Waits for all, or all but one; ends what is left, and gives the seconds that it took."""
        begun = time.monotonic()
        self.until(lambda: not [i for i in self._alive() if i != but], limit=limit)
        took = time.monotonic() - begun
        for i in self._alive():
            self._children[i].kill()
            self._children[i].wait()
            self.codes[i] = None if i != but else -9
        return took

    def words(self, i: int) -> str:
        """The last line that a process printed of its own."""
        told = self._logs[i].read_text(errors="replace").replace(f"{Path.cwd()}/", "")
        lines = [line for line in told.splitlines() if line.startswith("nesht: ")]
        fatal = re.findall(".*(?:heartbeat timeout|Terminating process).*", told)
        words = (lines or fatal or told.splitlines() or ["no word"])[-1]
        return " ".join(re.sub("[{}|]", "", words).split())[:200]

    def _alive(self) -> list[int]:
        for i, child in enumerate(self._children):
            if self.codes[i] is None:
                self.codes[i] = child.poll()
        return [i for i, code in enumerate(self.codes) if code is None]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(out: str, *, task: str = PROBE, generations: int = GENERATIONS, more: str = "") -> str:
    """The command that trains."""
    return f"train {task} {COMMON} --generations {generations} --out {out} {more}"


def fresh(name: str) -> str:
    """A folder's name, with nothing there."""
    shutil.rmtree(name, ignore_errors=True)
    return name


def rows(folder: str) -> int:
    """How many rows of metrics a run has written."""
    log = Path(folder, "metrics.jsonl")
    return log.read_text().count("\n") if log.exists() else 0


def left(folder: str) -> list[Any]:
    """What tells two runs apart: the metrics but for the seconds."""
    return [row._replace(seconds=0.0) for row in read_rows(Path(folder, "metrics.jsonl"))]


def alone(words: str) -> int:
    """Runs a command in one process; gives its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "nesht_jax.run.cli", *words.split()], capture_output=True
    ).returncode


# ------------------------------------------------------------------------------------- trials


def numbers() -> Iterator[Trial]:
    """Any number of processes, and another after a resume, with one result."""
    promise = "any number of processes comes to the same bits, and goes on with a run of any other"
    tasks = {
        "probe/linear": PROBE,
        "envpool, with distractors": "envpool/InvertedPendulum-v5 --distractors 2 --horizon 50 "
        "--algorithm.num_members 16",
    }
    for name, task in tasks.items():
        assert alone(train(fresh("whole"), task=task)) == 0
        whole = left("whole")
        for number in (2, 4):
            out = fresh("numbers")
            run = Processes([train(out, task=task)] * number)
            took = run.wait()
            held = set(run.codes) == {0} and left(out) == whole
            yield Trial(promise, f"{name}: {number}", held, took, _codes(run), run.words(0))
        out = fresh("numbers")
        Processes([train(out, task=task, generations=8)] * 2).wait()
        run = Processes([f"train --resume {out} --generations {GENERATIONS}"] * 4)
        took = run.wait()
        held = set(run.codes) == {0} and left(out) == whole
        yield Trial(promise, f"{name}: 2, then 4", held, took, _codes(run), run.words(0))
        out = fresh("numbers")
        Processes([train(out, task=task, generations=8)] * 2).wait()
        code = alone(f"train --resume {out} --generations {GENERATIONS}")
        held = code == 0 and left(out) == whole
        yield Trial(promise, f"{name}: 2, then 1", held, 0.0, str(code), "")


def lost() -> Iterator[Trial]:
    """A process that is lost while the run trains."""
    promise = "the others end within a minute, and the run can be resumed"
    for trial, victim, number in (
        ("process 1 is killed", 1, signal.SIGKILL),
        ("process 0 is killed", 0, signal.SIGKILL),
        ("process 1 is stopped, and stays alive", 1, signal.SIGSTOP),
    ):
        out = fresh("lost")
        run = Processes([train(out, generations=ENDLESS)] * 2)
        run.until(lambda out=out: rows(out) > 30)
        run.send(victim, number)
        yield _lost(promise, trial, run, out, victim)
    for trial, how in (("hangs", "hangs"), ("raises", "raises")):
        out = fresh("lost")
        task = "gymnasium/hurt:Hurt-v0 --horizon 20 --algorithm.num_members 16"
        run = Processes([train(out, task=task, generations=ENDLESS)] * 2, HURT=how)
        run.until(lambda out=out: rows(out) > 3)
        yield _lost(promise, f"the simulator of process 1 {trial}", run, out, 1)


def _lost(promise: str, trial: str, run: Processes, out: str, victim: int) -> Trial:
    other = 1 - victim
    before = time.monotonic()
    run.wait(but=victim if "raises" not in trial else None, limit=240)
    took = time.monotonic() - before
    if "hurt" in Path(out, "config.yaml").read_text():
        resumed = 0  # it would be hurt again
    else:
        resumed = alone(f"train --resume {out} --generations {rows(out) + 2}")
    held = run.codes[other] not in (None, 0) and took < LIMIT and resumed == 0
    return Trial(promise, trial, held, took, _codes(run), run.words(other))


def signals() -> Iterator[Trial]:
    """A signal that reaches one process alone."""
    promise = "a signal to one process ends all of them at one generation, with its exit code"
    assert alone(train(fresh("whole"))) == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        for victim in (0, 1):
            out = fresh("signalled")
            run = Processes([train(out, generations=ENDLESS)] * 2)
            run.until(lambda out=out: rows(out) > 5)
            run.send(victim, number)
            took = run.wait()
            reached = rows(out)
            again = alone(f"train --resume {out} --generations {reached + 2}")
            same = left(out)[: GENERATIONS // 2] == left("whole")[: GENERATIONS // 2]
            held = set(run.codes) == {128 + number} and again == 0 and same
            trial = f"{number.name} to process {victim}"
            yield Trial(promise, trial, held, took, _codes(run), run.words(0))


def unlike() -> Iterator[Trial]:
    """Processes that do not belong together."""
    promise = "what cannot be one run is refused by all, in a sentence that names the odd one"
    out = fresh("unlike")
    run = Processes([train(out), train(out, more="--seed 7")])
    yield _refused(promise, "another seed in process 1", run)
    Path("taken").mkdir()
    Path("taken", "mine").write_text("here")
    yield _refused(promise, "the run folder is taken", Processes([train("taken")] * 2))
    run = Processes([train(fresh("unlike"), more="--shares 1")] * 2)
    yield _refused(promise, "fewer shares than processes", run)
    run = Processes([train(fresh("unlike"))], WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    yield _refused(promise, "WORLD_SIZE without RANK", run)


def _refused(promise: str, trial: str, run: Processes) -> Trial:
    took = run.wait()
    held = set(run.codes) == {2} and not Path("unlike").exists()
    return Trial(promise, trial, held, took, _codes(run), run.words(len(run.codes) - 1))


def _codes(run: Processes) -> str:
    return " ".join(str(code) for code in run.codes)


PARTS = {"numbers": numbers, "lost": lost, "signals": signals, "unlike": unlike}


def main() -> None:
    """Tries every part, and writes the table."""
    options = _options()
    options.runs.mkdir(parents=True)
    out = options.out.absolute()
    os.chdir(options.runs)
    Path("hurt.py").write_text(HURT)
    os.environ |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(Path("cache").absolute())}
    os.environ["PYTHONPATH"] = os.pathsep.join(["", *sys.path[1:]]) + os.pathsep + str(Path.cwd())
    trials = []
    for name in options.parts:
        for trial in PARTS[name]():
            trials.append(trial)
            print("held  " if trial.held else "BROKEN", *trial, flush=True)
    write(out, [_row(trial) for trial in trials])
    sys.exit(sum(not trial.held for trial in trials))


def _row(trial: Trial) -> Row:
    told = {"held": "yes" if trial.held else "no", "seconds": f"{trial.seconds:.1f}"}
    return trial._asdict() | told


def _options() -> argparse.Namespace:
    parser = command(__doc__, "hosts.csv")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="parts [all]")
    parser.add_argument("--runs", type=Path, default=Path("hosts"), help="new folder [hosts]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
