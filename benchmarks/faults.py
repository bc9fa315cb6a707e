"""What a run survives: kills, signals, damage, a full disk, links and flipped bits, tried for real.

    python benchmarks/faults.py --kills 60 --runs /tmp/faults

Every trial is of a small run, in a child process, on Linux; a row a promise and trial goes into the
table. Exit code: the number of rows whose promise was broken.
"""

import argparse
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from measuring import Row, command, memory_in_use, write

import nesht_jax.run.sweep
import nesht_jax.run.train  # noqa: F401  (imported once, before the children part)
from nesht_jax.report.rows import read_rows
from nesht_jax.run.cli import main as nesht

GENERATIONS = 16
LOG = "metrics.jsonl"

TASKS = {
    "probe": "probe/linear --distractors 1 --algorithm.num_members 8 --policy.hidden [32]",
    "cart": "gymnasium/CartPole-v1 --algorithm.num_members 4 --horizon 20",
    "pole": "envpool/InvertedPendulum-v5 --algorithm.num_members 4 --horizon 20",
}
"""What is trained: a simulator in JAX, one in Python, one in C++."""

COMMON = "--evaluation.every 4 --evaluation.episodes 4 --seed 3 --algorithm.sigma 0.2 --track null"


class Trial(NamedTuple):
    """One try of a promise.

    Attributes:
        promise: what must hold.
        trial: what was done to the run.
        held: whether it held.
        words: what the command said last, or what was found.
    """

    promise: str
    trial: str
    held: bool
    words: str = ""


def main() -> None:
    """Tries every part, and writes the table."""
    options = _options()
    options.runs.mkdir(parents=True)  # new: what an older version left would be compared with
    os.environ["XDG_CACHE_HOME"] = str(options.runs.absolute() / "cache")
    out = options.out.absolute()
    os.chdir(options.runs)
    trials: list[Trial] = []
    try:
        for name in options.parts:
            for trial in PARTS[name](options.kills, random.Random(options.seed)):
                trials.append(trial)
                told = "held  " if trial.held else "BROKEN"
                print(told, *trial[:2], "|", trial.words, flush=True)
    finally:  # not sooner: it starts JAX, after which no child can be forked
        table = summarize(trials)
        write(out, table)
    sys.exit(min(100, sum(row["held"] < row["tries"] for row in table)))


def summarize(trials: list[Trial]) -> list[Row]:
    """A row a promise and trial: how often it was tried, and how often it held."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.promise, trial.trial), []).append(trial)
    return [
        {
            "promise": promise,
            "trial": trial,
            "tries": len(tried),
            "held": sum(t.held for t in tried),
            # what stands in braces is a field to the tables of pages
            "words": re.sub("[{}]", "", next((t for t in tried if not t.held), tried[-1]).words),
        }
        for (promise, trial), tried in groups.items()
    ]


# ---------------------------------------------------------------------------------- commands


class Child:
    """``nesht`` in a child of this process, which imports nothing anew.

    Args:
        argv: command line.
        before: what the child calls first.
    """

    LOG = Path("log")

    def __init__(self, argv: list[str], before: Callable[[], object] = lambda: None) -> None:
        self.code: int | str | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._work([str(word) for word in argv], before)

    def _work(self, argv: list[str], before: Callable[[], object]) -> None:
        log = os.open(self.LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["nesht", *argv]
        code = 1
        try:
            before()
            code = nesht(argv)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def ended(self) -> bool:
        """Whether it ended; then ``code`` is its exit code, negative the signal that ended it."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def until(self, holds: Callable[[], object]) -> None:
        """Waits until something holds, or the child ended."""
        while not self.ended() and not holds():
            time.sleep(0.0005)

    def wait(self, seconds: float = 600) -> "Child":
        """Waits for the end; ``code`` is "hangs" if there is none."""
        deadline = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline)
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = "hangs"
        return self

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if not self.ended():
            os.kill(self.pid, number)

    @property
    def text(self) -> str:
        """What it printed."""
        return self.LOG.read_text(errors="replace").replace(f"{Path.cwd()}/", "").strip()

    @property
    def words(self) -> str:
        """The last line it printed."""
        return " ".join((self.text.splitlines() or [""])[-1].split())

    @property
    def refused(self) -> bool:
        """Whether it ended with one sentence and exit code 2."""
        return self.code == 2 and len(self.text.splitlines()) == 1


def run(*argv: Any, before: Callable[[], object] = lambda: None) -> Child:
    """Runs a command to its end."""
    return Child(list(argv), before).wait()


def training(task: str, out: Path, *, every: int = 1, generations: int = GENERATIONS) -> list[str]:
    """The command that trains; ``every`` is the beat of checkpoints."""
    own = f"--checkpoint_every {every} --generations {generations} --out {out}"
    return f"train {TASKS[task]} {COMMON} {own}".split()


def resume(folder: Path, generations: int | None = None) -> Child:
    """Goes on with a run."""
    more = [] if generations is None else ["--generations", generations]
    return run("train", "--resume", folder, *more)


def whole(task: str, *, every: int = 1, generations: int = GENERATIONS) -> Path:
    """The folder of a run that nothing happens to."""
    folder = Path(f"whole_{task}_{every}_{generations}")
    if not folder.exists():
        assert run(*training(task, folder, every=every, generations=generations)).code == 0
    return folder


def fresh(name: str, *, copy_of: Path | None = None) -> Path:
    """A folder's name, with nothing there or a copy of a run."""
    folder = Path(name)
    shutil.rmtree(folder, ignore_errors=True)
    if copy_of is not None:
        shutil.copytree(copy_of, folder, symlinks=True)
    return folder


def left(folder: Path) -> str | None:
    """What tells two runs apart: the digest of the newest checkpoint, and the metrics but for the
    seconds."""
    if not checkpoints(folder):
        return None
    return f"{digest(folder)} {[row._replace(seconds=0.0) for row in read_rows(folder / LOG)]}"


def digest(folder: Path) -> str:
    """The digest of the newest checkpoint."""
    newest = folder / "checkpoints" / str(max(checkpoints(folder))) / "_CHECKPOINT_METADATA"
    return json.loads(newest.read_text())["custom_metadata"]["digest"]


def checkpoints(folder: Path) -> list[int]:
    """Generations of the whole checkpoints of a run."""
    home = folder / "checkpoints"
    return [int(p.name) for p in home.iterdir() if p.name.isdigit()] if home.is_dir() else []


def rows(folder: Path) -> int:
    """How many rows of metrics a run has written."""
    log = folder / LOG
    return log.read_text().count("\n") if log.exists() else 0


def _has_rows(folder: Path, number: int) -> bool:
    return rows(folder) >= number


def writing(folder: Path, generation: int) -> bool:
    """Whether the checkpoint of a generation is being written, or just was."""
    home = folder / "checkpoints"
    names = os.listdir(home) if home.is_dir() else []
    return any(n.startswith(f"{generation}.orbax") or n == str(generation) for n in names)


# ------------------------------------------------------------------------------------- trials


def kill(count: int, chance: random.Random) -> Iterator[Trial]:
    """Killed anywhere, and resumed."""
    promise = "what resumes is the run that would have been, bit for bit"
    for _ in range(count):
        task, out, at = chance.choice([*TASKS]), fresh("killed"), chance.randrange(GENERATIONS)
        moments = {
            "kill -9 after a generation": partial(_has_rows, out, at + 1),
            "kill -9 while a checkpoint is written": partial(writing, out, at),
            "kill -9 at the start": (out / "config.yaml").exists,
        }
        trial = chance.choice([*moments])
        reference = left(whole(task))
        child = Child(training(task, out))
        child.until(moments[trial])
        time.sleep(chance.choice([0, chance.uniform(0, 0.08)]))
        child.send(signal.SIGKILL)
        child.wait()
        again = resume(out)
        yield Trial(promise, trial, again.code == 0 and left(out) == reference, again.words)


def signals(count: int, chance: random.Random) -> Iterator[Trial]:
    """Asked to stop at every stage, once or twice."""
    promise = "SIGINT and SIGTERM end a run with their exit code, and it resumes to the same bits"
    moments = [
        ("start", 1),
        ("compilation", 1),
        ("row", 1),
        ("checkpoint", 1),
        ("row", 2),
        ("end", 1),
    ]
    for task in TASKS:
        reference = left(whole(task))
        for number in (signal.SIGINT, signal.SIGTERM):
            for when, times in moments:
                out = fresh("signalled")
                child = Child(training(task, out))
                stages = {
                    "start": (out / "config.yaml").exists,
                    "compilation": (out / "checkpoints" / "0").exists,
                    "row": partial(_has_rows, out, 6),
                    "checkpoint": partial(writing, out, 5),
                    "end": partial(_has_rows, out, GENERATIONS + 1),
                }
                child.until(stages[when])
                for _ in range(times):
                    child.send(number)
                    time.sleep(0.03 * (times - 1))
                child.wait()
                # SIGTERM ends a process that does not catch it yet, or no longer, by itself
                at_once = when == "start" or times > 1
                accepted = {128 + number, *([-number] if at_once else [])}
                accepted |= {0} if when == "end" else set()
                again = resume(out)
                held = child.code in accepted and again.code == 0 and left(out) == reference
                words = f"exit code {child.code}; resumed: {again.code}, {again.words}"
                yield Trial(promise, f"{'twice ' * (times - 1)}at {when}", held, words)


def damage(count: int, chance: random.Random) -> Iterator[Trial]:
    """Files of a run hurt, and the run resumed."""
    promise = "damage is refused in a sentence, or what resumes is the run that would have been"
    base = whole("probe", every=4, generations=12)
    reference = left(whole("probe", every=4, generations=GENERATIONS))
    for trial, hurt in _damages().items():
        out = fresh("damaged", copy_of=base)
        hurt(out)
        again = resume(out, GENERATIONS)
        same = again.code == 0 and left(out) == reference
        if "has lost the rows" in again.text:  # they are told, and the state is the same
            same = digest(out) == digest(whole("probe", every=4))
        told = [line for line in again.text.splitlines() if line.startswith("nesht: ")]
        yield Trial(promise, trial, again.refused or same, (told or ["no word"])[0])


def _damages() -> dict[str, Callable[[Path], object]]:
    log, config, newest = LOG, "config.yaml", "checkpoints/12"

    def lines(name: str, change: Callable[[list[str]], list[str]], folder: Path) -> None:
        path = folder / name
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    def put(name: str, text: str, folder: Path) -> None:
        (folder / name).write_text(text)

    def swap(old: str, new: str, folder: Path) -> None:
        text = (folder / config).read_text()
        assert old in text, old
        put(config, text.replace(old, new, 1), folder)

    def second(line: str, found: list[str]) -> list[str]:
        return [*found[:2], line + "\n", *found[3:]]

    found: dict[str, Callable[[Path], object]] = {
        f"{log} removed": lambda folder: (folder / log).unlink(),
        f"{log} emptied": partial(put, log, ""),
        f"{log}: last five rows lost": partial(lines, log, lambda all_: all_[:8]),
        f"{log}: a row cut": partial(lines, log, partial(second, '{"generation": 2, "fit')),
        f"{log}: a row is a number": partial(lines, log, partial(second, "5")),
        f"{log}: a row is empty": partial(lines, log, partial(second, "{}")),
        f"{config}: second half lost": partial(lines, config, lambda all_: all_[: len(all_) // 2]),
        f"{config} emptied": partial(put, config, ""),
        f"{config}: sigma lost": partial(swap, "  sigma: 0.2\n", ""),
        f"{config}: sigma edited": partial(swap, "sigma: 0.2\n", "sigma: 0.02\n"),
        f"{config}: seed edited": partial(swap, "seed: 3", "seed: 4"),
        "newest checkpoint: an empty manifest": partial(
            put, f"{newest}/default/manifest.ocdbt", ""
        ),
        "newest checkpoint: no files": lambda folder: (
            shutil.rmtree(folder / newest),
            (folder / newest).mkdir(),
        ),
    }
    for name in (
        "default/_METADATA",
        "_CHECKPOINT_METADATA",
        "default/d",
        "default/ocdbt.process_0",
    ):
        found[f"newest checkpoint: {name} removed"] = lambda folder, name=name: subprocess.run(
            ["rm", "-r", folder / newest / name], check=True
        )
    return found


def bits(count: int, chance: random.Random) -> Iterator[Trial]:
    """One bit of the newest checkpoint flipped, and the run resumed."""
    promise = "no flipped bit is loaded: what resumes is the run that would have been"
    base = whole("probe", every=4, generations=12)
    reference = left(whole("probe", every=4, generations=GENERATIONS))
    files = [p for p in (base / "checkpoints/12").rglob("*") if p.is_file() and p.stat().st_size]
    for _ in range(count):
        out = fresh("flipped", copy_of=base)
        path = out / chance.choice(files).relative_to(base)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        again = resume(out, GENERATIONS)
        aside = (out / "checkpoints/12.damaged").exists()
        words = "the older checkpoint was used" if aside else "unharmed"
        held = again.code == 0 and left(out) == reference
        yield Trial(promise, "a bit of the newest checkpoint", held, words if held else again.words)


def links(count: int, chance: random.Random) -> Iterator[Trial]:
    """Links to elsewhere, laid in a run folder."""
    promise = "a run folder from elsewhere writes and deletes nothing outside of it"
    base = whole("probe", every=4, generations=12)
    precious = Path("precious").absolute()
    for name in ("metrics.jsonl", "config.yaml", "run.json", "policies.npz", "sensors.png"):
        out = fresh("linked", copy_of=base)
        precious.write_bytes((base / name).read_bytes())
        before = precious.read_bytes()
        (out / name).unlink()
        (out / name).symlink_to(precious)
        again = resume(out, 13)
        held = again.refused and precious.read_bytes() == before
        yield Trial(promise, f"{name} is a link", held, again.words)
    out, elsewhere = fresh("linked", copy_of=base), fresh("elsewhere")
    (out / "checkpoints").rename(elsewhere)
    (elsewhere / "3").mkdir()
    (elsewhere / "3" / "precious").write_text("x")
    (out / "checkpoints").symlink_to(elsewhere.absolute())
    again = resume(out, 13)
    held = again.refused and (elsewhere / "3" / "precious").exists()
    yield Trial(promise, "checkpoints is a link", held, again.words)


def places(count: int, chance: random.Random) -> Iterator[Trial]:
    """A folder that goes while it is trained in, and a disk that is full."""
    promise = "a run that cannot be kept ends with a sentence, and not with exit code 0"
    hurts: dict[str, Callable[[Path], object]] = {
        "run folder removed": _remove,
        "run folder renamed": lambda folder: folder.rename("renamed"),
        "metrics.jsonl removed": lambda folder: (folder / "metrics.jsonl").unlink(),
        "checkpoints removed": lambda folder: _remove(folder / "checkpoints"),
    }
    for trial, hurt in hurts.items():
        for task in ("probe", "cart"):
            out = fresh("going")
            fresh("renamed")
            child = Child(training(task, out, every=50, generations=2000))
            child.until(partial(_has_rows, out, 6))
            hurt(out)
            child.wait()
            held = child.code == 1 and "Traceback" not in child.text
            if trial == "checkpoints removed":  # they are made again
                held = child.code == 0 and 2000 in checkpoints(out)
            yield Trial(promise, trial, held, child.words)
    promise = "on a full disk a run ends with a sentence, and what was saved resumes"
    if os.geteuid() != 0:
        print("left out: a full disk needs the right to mount one", flush=True)
        return
    for size in ("64k", "200k", "400k"):
        disk = fresh("disk")
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        try:
            yield _full_disk(promise, size, disk / "run")
        finally:
            subprocess.run(["umount", disk], check=True)


def _remove(folder: Path) -> None:
    """At once, whatever is written there meanwhile."""
    shutil.rmtree(folder.rename(fresh("removed")), ignore_errors=True)


def _full_disk(promise: str, size: str, out: Path) -> Trial:
    child = run(*training("probe", out, every=10, generations=2000))
    said = child.code in (1, 2) and "Traceback" not in child.text
    words = child.words
    if not out.exists():
        return Trial(promise, f"{size}B", said, words)
    subprocess.run(["mount", "-o", "remount,size=64m", out.parent], check=True)
    again = resume(out)
    reference = left(whole("probe", every=10, generations=2000))
    held = said and again.code == 0 and left(out) == reference
    return Trial(promise, f"{size}B", held, words if held else f"{words}; resumed: {again.words}")


def soak(count: int, chance: random.Random) -> Iterator[Trial]:
    """Many trainings in one process."""
    promise = "threads, open files and compiled programs stay as many, and memory what it was"
    for task in TASKS:
        found = Path("found.json")
        found.unlink(missing_ok=True)
        child = run("--version", before=partial(_train_often, task, 50, found))
        held, words = False, child.words
        if child.code == 0:
            early, late = json.loads(found.read_text())
            held = late["mebibytes"] - early["mebibytes"] < 100 and all(
                late[name] <= early[name] + most
                for name, most in {"threads": 3, "files": 1, "programs": 1}.items()
            )
            words = "; ".join(
                f"{name} {early[name]} after 10 trainings, {late[name]} after 50" for name in late
            )
        yield Trial(promise, f"50 trainings in {task}", held, words)


def long(count: int, chance: random.Random) -> Iterator[Trial]:
    """A run of many generations."""
    promise = "threads, open files and mapped programs stay as many, and memory what it was"
    for task in TASKS:
        out = fresh("long")
        child = Child(training(task, out, every=100, generations=3000))
        child.until(partial(_has_rows, out, 500))
        early = _seen(child.pid)
        child.until(partial(_has_rows, out, 2000))
        late = _seen(child.pid)
        ended = child.wait().code == 0 and rows(out) == 3001
        most = {"threads": 3, "files": 1, "mappings": 20, "mebibytes": 50}
        held = ended and all(late[name] <= early[name] + more for name, more in most.items())
        words = "; ".join(f"{name} {early[name]} at 500, {late[name]} at 2000" for name in late)
        yield Trial(promise, f"3000 generations in {task}", held, words)


def _seen(pid: int) -> dict[str, int]:
    """The least that the kernel tells of a living process within a moment: a checkpoint takes more,
    for a while. Each compiled program has mappings of its own."""
    looks = []
    for _ in range(10):
        looks.append(_look(Path(f"/proc/{pid}")))
        time.sleep(0.02)
    return {name: min(look[name] for look in looks) for name in looks[0]}


def _look(home: Path) -> dict[str, int]:
    resident = re.search(r"VmRSS:\s+(\d+)", (home / "status").read_text())
    assert resident is not None, "it has ended"
    return {
        "threads": len(os.listdir(home / "task")),
        "files": len(os.listdir(home / "fd")),
        "mappings": (home / "maps").read_text().count("\n"),
        "mebibytes": int(resident[1]) // 1024,
    }


def _train_often(task: str, number: int, found: Path) -> None:
    told = []
    for i in range(number):
        assert nesht(training(task, fresh("soaked"), every=8, generations=8)) == 0
        if i + 1 in (10, number):
            told.append(_resources())
    found.write_text(json.dumps(told))


def _resources() -> dict[str, int]:
    gc.collect()
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "programs": len(jax.devices()[0].client.live_executables()),
        "mebibytes": round(memory_in_use()),
    }


PARTS = {
    "kill": kill,
    "signals": signals,
    "damage": damage,
    "bits": bits,
    "links": links,
    "places": places,
    "soak": soak,
    "long": long,
}


def _options() -> argparse.Namespace:
    parser = command(__doc__, "faults.csv")
    add = parser.add_argument
    add("--runs", type=Path, required=True, help="folder to make, for the runs of the trials")
    add("--kills", type=int, default=60, help="how many kills, and flipped bits [60]")
    add("--parts", nargs="+", default=[*PARTS], choices=[*PARTS], help="what is tried [all]")
    add("--seed", type=int, default=0, help="seed of the moments and places [0]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
