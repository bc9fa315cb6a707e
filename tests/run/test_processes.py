"""Runs of several processes, as several machines would do them."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from nesht_jax.report.rows import read_rows
from nesht_jax.run import processes
from nesht_jax.run.cli import main

TASKS = {
    "probe": "probe/linear --distractors 1 --algorithm.num_members 16 --generations 8",
    "pole": "envpool/InvertedPendulum-v5 --distractors 2 --horizon 30 --generations 8"
    " --algorithm.num_members 16",
}
COMMON = "--shares 4 --evaluation.every 4 --evaluation.episodes 4 --checkpoint_every 4"


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def started(*commands):
    """The processes of one run, each with its command."""
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": free_address(),
        "JAX_NUM_PROCESSES": str(len(commands)),
        "JAX_PLATFORMS": "cpu",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "nesht_jax.run.cli", *map(str, words)],
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, words in enumerate(commands)
    ]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def ended(children):
    """Exit codes and what was printed."""
    told = [child.communicate(timeout=300)[0] for child in children]
    return [child.returncode for child in children], told


def train(out, task, *more):
    return ["train", *TASKS[task].split(), *COMMON.split(), "--out", out, *more]


def rows(folder):
    return [row._replace(seconds=0.0) for row in read_rows(folder / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_do_what_one_does_and_one_goes_on(tmp_path, task):
    assert main([*map(str, train(tmp_path / "one", task))]) == 0
    out = tmp_path / "two"
    with started(*[train(out, task, "--generations", 4)] * 2) as children:
        codes, told = ended(children)
    assert codes == [0, 0], told
    assert "2 processes with 2 devices, of which 2 are used, and 4 shares" in told[0]
    assert "at once of each share" in told[0]
    assert "generation" not in told[1]
    assert rows(out) == rows(tmp_path / "one")[:5]
    assert main(["train", "--resume", str(out), "--generations", "8"]) == 0
    assert rows(out) == rows(tmp_path / "one")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(tmp_path):
    out = tmp_path / "run"
    with started(*[train(out, "probe", "--generations", 10**7)] * 2) as children:
        deadline = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        children[1].send_signal(signal.SIGTERM)
        codes, told = ended(children)
    assert codes == [128 + signal.SIGTERM] * 2, told
    assert f"go on with: nesht train --resume {out}" in told[0]


@pytest.mark.slow
def test_processes_of_different_runs_are_refused(tmp_path):
    one, other = train(tmp_path / "run", "probe"), train(tmp_path / "run", "probe", "--seed", 7)
    with started(one, other) as children:
        codes, told = ended(children)
    assert codes == [2, 2]
    host = socket.gethostname()
    sentence = f"nesht: the config of process 1 on {host} is another than that of process 0\n"
    assert all(text.endswith(sentence) for text in told), told
    assert not (tmp_path / "run").exists()


LEAVE = """
import os, sys, time
from nesht_jax.run import launcher, processes

processes.start(launcher.Place(sys.argv[1], 2, int(sys.argv[2])))
end = os._exit
os._exit = lambda code: (time.sleep(float(sys.argv[3])), end(code))
processes.leave(2)
"""


@pytest.mark.slow
def test_a_process_that_leaves_late_is_not_aborted_as_process_0_is_gone():
    address = free_address()
    children = [
        subprocess.Popen([sys.executable, "-c", LEAVE, address, *words])
        for words in (("0", "0"), ("1", "3"))
    ]
    assert [child.wait(120) for child in children] == [2, 2]


# ------------------------------------------------------------------------------- of one process


def test_one_process_agrees_with_itself():
    assert processes.number() == 1
    assert processes.is_writer()
    assert processes.agree(5, 0, longest=None) == (5, 0)
    assert processes.from_writer(lambda: b"here") == b"here"
    assert processes.own_shares(4) == range(4)


def test_what_the_writer_raises_is_raised():
    def make():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        processes.from_writer(make)


def test_patience_grows_with_the_longest_call():
    assert processes.patience(None) == processes.FIRST_PATIENCE
    assert processes.patience(0.1) == processes.LEAST_PATIENCE
    assert processes.patience(60.0) == 600.0


def test_arrays_go_to_a_mesh_and_back():
    tree = {"key": jax.random.key(3), "x": np.arange(3.0, dtype=np.float32), "n": np.int32(4)}
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("members",))
    there = processes.replicated(tree, mesh)
    back = processes.local(there)
    assert jax.random.key_data(back["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
    np.testing.assert_array_equal(back["x"], tree["x"])
    assert back["n"].shape == () and int(back["n"]) == 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--shares", "3"], "shares must be a power of two, got 3"),
        (["--shares", "0"], "shares must be a power of two, got 0"),
        (["--shares", "16"], "shares must divide 8,"),
        (["--shares", "4", "--algorithm.mirrored", "false", "--algorithm.num_members", "6"], "2,"),
    ],
)
def test_shares_that_do_not_fit_are_refused(tmp_path, capsys, settings, sentence):
    words = [*TASKS["probe"].split(), "--out", str(tmp_path / "run"), *settings]
    assert main(["train", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_agents_have_no_shares(tmp_path, capsys):
    words = ["gymnax/CartPole-v1", "dqn", "--shares", "2", "--out", str(tmp_path / "run")]
    assert main(["train", *words]) == 2
    assert "has no population: leave shares out" in capsys.readouterr().err
