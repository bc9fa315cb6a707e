"""Exported policies: the files themselves are run, and act as the policies that they came from."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest

from nesht_jax.envs.tasks import make_task
from nesht_jax.run import exported
from nesht_jax.run.build import build_policy
from nesht_jax.run.cli import Parser, main
from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.cli.train import add_arguments
from nesht_jax.run.config import Config
from nesht_jax.run.export import export
from nesht_jax.run.exported import Player, actions, player, seconds_of_one
from nesht_jax.run.formats import (
    WRITERS,
    write_c,
    write_jax,
    write_numpy,
    write_onnx,
    write_safetensors,
)
from nesht_jax.run.load import TrainedPolicy, load
from nesht_jax.run.plain import like_training, plain
from nesht_jax.run.repeat import command
from nesht_jax.run.sections import PolicyConfig, SearchConfig
from nesht_jax.run.settings import read_command
from nesht_jax.run.yaml import config_of
from nesht_jax.types import Moments

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
INF = np.inf
FORMATS = [pytest.param(to, marks=compiler) if to == "c" else to for to in WRITERS]

CASES = {
    "linear": ({}, (-1, 1)),
    "odd bounds": ({}, (-0.5, 3)),
    "half a bound": ({}, (0, INF)),
    "no bounds": ({}, (-INF, INF)),
    "clip": ({"output": "clip"}, (-0.5, 3)),
    "tanh": ({"output": "tanh"}, (-1, 1)),
    "raw": ({"normalization": "none"}, (-2, 2)),
    "wide": ({"clip": INF}, (-1, 1)),
    "hidden": ({"hidden": (6, 4)}, (-1, 1)),
    "relu": ({"hidden": (5,), "activation": "relu"}, (-1, 1)),
    "functions": ({"hidden": (33, 3)}, (-1, 1)),
}


def trained(given, bounds=None, *, task="envpool/Hopper-v5", sparsity=0.7, names=None):
    """A policy with random weights, most of them 0, as ``load`` gives it."""
    task = make_task(task, distractors=1)
    if bounds is not None:
        low, high = (np.full(task.num_actions, bound, np.float32) for bound in bounds)
        task = dataclasses.replace(task, action_low=low, action_high=high)
    task = dataclasses.replace(task, feature_names=names or task.feature_names)
    searched = SearchConfig(("activations",) if given.get("hidden") == (33, 3) else ())
    config = Config(task=task.name, distractors=1, policy=PolicyConfig(**given), search=searched)
    policy = build_policy(config, task)
    rng = np.random.default_rng(1)

    def drawn(x):
        if x.dtype == np.int32:
            return (np.arange(x.size) % 11).astype(np.int32)
        kept = (rng.random(x.shape) > sparsity) | (x.ndim < 2)
        return (rng.normal(size=x.shape) * kept).astype(np.float32)

    params = jax.tree.map(drawn, policy.init(jax.random.key(0)))
    size, moments = task.num_features, None
    if policy.uses_moments:
        spread = rng.uniform(0.5, 2, size).astype(np.float32)
        mean = rng.normal(size=size).astype(np.float32)
        moments = Moments(np.float32(100), mean, 100 * spread**2)
    return TrainedPolicy(config, task, policy, params, moments)


def observations(policy, number=256):
    rng = np.random.default_rng(2)
    return 3 * rng.normal(size=(number, policy.task.num_features)).astype(np.float32)


def largest_difference(policy, made):
    seen = like_training(policy)
    return max(np.abs(policy(x) - made(x)).max() for x in seen)


def run_python(path, seen):
    """Actions of an exported file, in a process that has NumPy alone."""
    script = (
        "import runpy, sys, numpy as np\n"
        "sys.modules.update(dict.fromkeys(('jax', 'nesht_jax')))\n"
        "act = runpy.run_path(sys.argv[1])['act']\n"
        "np.save(sys.argv[3], np.stack([act(x) for x in np.load(sys.argv[2])]))\n"
    )
    given, made = path.with_name("seen.npy"), path.with_name("acts.npy")
    np.save(given, seen)
    subprocess.run([sys.executable, "-c", script, path, given, made], check=True)
    return np.load(made)


def run_onnx(path, seen):
    """Actions of an ONNX model."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (acts,) = session.run(["action"], {"observation": seen})
    return acts


def run_jax(path, seen):
    """Actions of a serialized function of JAX."""
    return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(seen))


OF = {
    "tanh": np.tanh,
    "relu": lambda x: x * (x > 0),
    "exp": lambda x: np.exp(np.minimum(x, 10)),
    "identity": lambda x: x,
    "sin": np.sin,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "abs": np.abs,
    "cos": np.cos,
    "square": np.square,
    "reciprocal": lambda x: np.copysign(1, x) / np.maximum(np.abs(x), 0.1),
    "step": lambda x: np.heaviside(x, 0),
}


def run_safetensors(path, seen):
    """Actions by the arrays of a file, read by the format's description with NumPy alone."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header, arrays = json.loads(content[8:begin]), {}
    told = {name: json.loads(text) for name, text in header.pop("__metadata__").items()}
    for name, about in header.items():
        first, last = about["data_offsets"]
        kind = {"F32": "<f4", "I64": "<i8"}[about["dtype"]]
        arrays[name] = np.frombuffer(content[begin + first : begin + last], kind)
        arrays[name] = arrays[name].reshape(about["shape"])
    x = (seen[:, arrays["inputs"]] - arrays["mean"]) / arrays["spread"]
    x = x if told["clip"] is None else np.clip(x, -told["clip"], told["clip"])
    last = sum(name.endswith("weights") for name in arrays) - 1
    for i in range(last + 1):
        x = x @ arrays[f"layer{i}.weights"] + arrays[f"layer{i}.biases"]
        if i < last:
            start = 0
            for name, number in told["functions"][i]:
                units = slice(start, start := start + number)
                x[:, units] = OF[name](x[:, units])
    if told["discrete"]:
        return x.argmax(1)
    low, high = arrays["low"], arrays["high"]
    if told["output"] == "tanh":
        x = np.tanh(x)
    elif told["output"] == "scale":
        both = np.isfinite(low) & np.isfinite(high)
        lows, highs = low[both], high[both]
        x[:, both] = lows + (np.tanh(x[:, both]) + 1) / 2 * (highs - lows)
    return np.clip(x, low, high)


def run_c(path, seen, *, discrete=False):
    """Actions of an exported header, compiled without a warning."""
    call = (
        'printf("%d\\n", policy(x));'
        if discrete
        else (
            "float a[POLICY_ACTIONS]; policy(x, a);"
            'for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g ", a[i]);'
            'printf("\\n");'
        )
    )
    main_file = path.with_name("main.c")
    main_file.write_text(
        f'#include <stdio.h>\n#include "{path.name}"\n'
        "int main(void) { float x[POLICY_FEATURES];\n"
        "while (fread(x, sizeof(float), POLICY_FEATURES, stdin) == POLICY_FEATURES) {"
        f"{call} }} return 0; }}\n"
    )
    binary = path.with_name("main")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]
    subprocess.run(["cc", *flags, main_file, "-o", binary, "-lm"], check=True)
    said = subprocess.run([binary], input=seen.tobytes(), capture_output=True, check=True).stdout
    return np.array([line.split() for line in said.decode().splitlines()], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_arrays_act_as_the_policy(case):
    policy = trained(*CASES[case])
    made = plain(policy)
    assert largest_difference(policy, made) < 1e-5
    assert made.num_weights < 0.5 * sum(x.size for x in jax.tree.leaves(policy.params))
    for x in observations(policy, 16):
        np.testing.assert_allclose(made(x), policy(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("write", "run", "rtol"),
    [
        pytest.param(write_numpy, run_python, 1e-5, id="numpy"),
        pytest.param(write_c, run_c, 1e-4, id="c", marks=compiler),
        pytest.param(write_onnx, run_onnx, 1e-5, id="onnx"),
        pytest.param(write_jax, run_jax, 1e-5, id="jax"),
        pytest.param(write_safetensors, run_safetensors, 1e-5, id="safetensors"),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_a_file_acts_as_the_policy(case, write, run, rtol, tmp_path):
    policy = trained(*CASES[case])
    path, seen = tmp_path / "policy.h", observations(policy)
    write(plain(policy), path)
    expected = np.stack([policy(x) for x in seen])
    np.testing.assert_allclose(run(path, seen), expected, rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(run(path, seen[:1]), expected[:1], rtol=rtol, atol=1e-5)


def test_an_onnx_model_is_valid_and_has_names(tmp_path):
    policy = trained({"hidden": (4,)})
    write_onnx(plain(policy), tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert told["motors"] == ["thigh", "leg", "foot"] and "vertical velocity" in told["sensors"]


@compiler
def test_choices_are_numbers(tmp_path):
    policy = trained({}, task="envpool/CartPole-v1")
    seen, made = observations(policy), plain(policy)
    expected = [int(policy(x)) for x in seen]
    assert set(expected) == {0, 1}
    write_numpy(made, tmp_path / "policy.py")
    write_c(made, tmp_path / "policy.h")
    write_onnx(made, tmp_path / "policy.onnx")
    write_jax(made, tmp_path / "policy.jax")
    write_safetensors(made, tmp_path / "policy.safetensors")
    assert run_onnx(tmp_path / "policy.onnx", seen).tolist() == expected
    assert run_jax(tmp_path / "policy.jax", seen).tolist() == expected
    assert run_safetensors(tmp_path / "policy.safetensors", seen).tolist() == expected
    assert run_python(tmp_path / "policy.py", seen).tolist() == expected
    assert run_c(tmp_path / "policy.h", seen, discrete=True)[:, 0].tolist() == expected


def test_what_is_not_read_is_not_written():
    policy = trained({"hidden": (6,)}, sparsity=0.5)
    policy.params["layer0"]["kernel"][3] = 0  # an input that nothing reads
    policy.params["layer1"]["kernel"][2] = 0  # a unit that nothing reads
    policy.params["layer0"]["kernel"][7] = 0
    policy.params["layer0"]["kernel"][7, 2] = 1  # an input that this unit alone reads
    policy = TrainedPolicy(policy.config, policy.task, policy.policy, policy.params, policy.moments)
    made = plain(policy)
    assert not {3, 7} & set(made.inputs.tolist())
    used = policy.params["layer1"]["kernel"].any(1).sum()
    assert made.layers[0][0].shape == (len(made.inputs), used) and used < 6
    assert largest_difference(policy, made) < 1e-5


RUNS = {
    "numpy": run_python,
    "c": run_c,
    "onnx": run_onnx,
    "jax": run_jax,
    "safetensors": run_safetensors,
}


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
@pytest.mark.parametrize("to", FORMATS)
def test_a_policy_that_reads_nothing(to, hidden, tmp_path):
    policy = trained({"hidden": hidden}, sparsity=1.0)
    seen, path = observations(policy, 3), tmp_path / WRITERS[to][0]
    WRITERS[to][1](plain(policy), path)
    expected = np.stack([policy(x) for x in seen])
    np.testing.assert_allclose(RUNS[to](path, seen), expected, rtol=1e-5, atol=1e-6)


@compiler
def test_names_are_text_and_never_code(tmp_path):
    """A name of a feature that ends the comment, or the string, that it stands in."""
    evil = '*/ int evil; /*"""\n\\import os; os.abort()'
    policy = trained({}, names=tuple(f"{evil}{i}" for i in range(11)))
    seen = observations(policy, 3)
    write_numpy(plain(policy), tmp_path / "policy.py")
    write_c(plain(policy), tmp_path / "policy.h")
    expected = np.stack([policy(x) for x in seen])
    np.testing.assert_allclose(run_python(tmp_path / "policy.py", seen), expected, atol=1e-5)
    np.testing.assert_allclose(run_c(tmp_path / "policy.h", seen), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "task", "message"),
    [
        ({"normalization": "observation"}, "envpool/Hopper-v5", "observation mixes all inputs"),
        ({"convolutions": "dqn2013"}, "envpool/Pong-v5", "read sensors, and .*Pong-v5 shows"),
    ],
)
def test_what_is_not_exported_is_told(given, task, message):
    with pytest.raises(ValueError, match=message):
        plain(trained(given, task=task))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("task", ["envpool/Hopper-v5", "envpool/CartPole-v1"])
def test_a_file_is_played_as_it_is(to, task, tmp_path):
    policy = trained({"hidden": (3,)}, task=task)
    made, seen, path = plain(policy), observations(policy, 20), tmp_path / "policy"
    WRITERS[to][1](made, path)
    found = player(to, path, made)
    expected = np.stack([policy(x) for x in seen])
    np.testing.assert_allclose(actions(found, seen), expected, rtol=1e-4, atol=1e-5)
    again = actions(Player("twice", lambda x, rounds: found.play(x, 2 * rounds)), seen)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_a_time_is_the_median_of_one_action(monkeypatch):
    """By a clock of its own: 2 µs an action or 6, and now and then a second for something else."""
    now, calls = [0.0], []

    def play(seconds):
        def played(seen, rounds):
            calls.append(seconds)
            now[0] += rounds * len(seen) * seconds + (len(calls) % 5 == 0)
            return []

        return Player("clock", played)

    monkeypatch.setattr(exported.time, "perf_counter", lambda: now[0])
    seen = np.zeros((256, 3), np.float32)
    assert seconds_of_one([play(2e-6), play(6e-6)], seen) == pytest.approx([2e-6, 6e-6])
    assert calls[-4:] == [2e-6, 6e-6, 2e-6, 6e-6]  # in turns: a busy moment is shared
    assert seconds_of_one([], seen) == []


def test_the_dense_policy_has_every_weight():
    policy = trained({"hidden": (6, 4)})
    sparse, dense = plain(policy), plain(policy, dense=True)
    assert dense.num_weights == 22 * 6 + 6 * 4 + 4 * 3 > 2 * sparse.num_weights
    assert dense.inputs.tolist() == list(range(22))
    kernel = policy.params["layer0"]["kernel"]
    kept = kernel != 0
    np.testing.assert_array_equal(dense.layers[0][0][kept], kernel[kept])


@pytest.fixture
def quick(monkeypatch):
    """Times of few measurements."""
    monkeypatch.setattr(exported, "MEASUREMENTS", 3)
    monkeypatch.setattr(exported, "LEAST_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_export_from_python(to, probe_run, tmp_path, quick):
    made = export(probe_run.folder, to, path=tmp_path / "mine")
    assert (made.path, made.size) == (tmp_path / "mine", (tmp_path / "mine").stat().st_size)
    kept = np.count_nonzero(probe_run.reading.weights)
    assert (made.weights, made.dense_weights) == (kept, 20) and kept < 10
    assert made.size < made.dense_size
    assert made.how and made.seconds > 0 and made.dense_seconds > 0
    assert made.difference < 1e-4


def test_the_check_is_of_the_file(probe_run, tmp_path, quick, monkeypatch):
    def wrong(made, path):
        weights, biases = made.layers[0]
        write_numpy(made._replace(layers=((-weights, biases),)), path)

    monkeypatch.setitem(WRITERS, "numpy", ("policy.py", wrong))
    assert export(probe_run.folder, path=tmp_path / "policy.py").difference > 0.1


@pytest.mark.parametrize("broken", ["none", "useless"])
def test_without_a_compiler_no_time_is_told(
    broken, probe_run, tmp_path, quick, capsys, monkeypatch
):
    compilers = {"none": None, "useless": shutil.which("false")}
    monkeypatch.setattr(exported.shutil, "which", lambda name: compilers[broken])
    made = export(probe_run.folder, "c", path=tmp_path / "policy.h")
    assert (made.seconds, made.dense_seconds, made.how) == (None, None, "")
    assert made.difference < 1e-4
    out = f"--out={tmp_path / 'policy.h'}"
    assert main(["export", str(probe_run.folder), "--to=c", out]) == 0
    told = capsys.readouterr().out
    assert (
        "of its arrays, as nothing here runs a file of this kind" in told
        and "one action" not in told
    )


@compiler
def test_a_header_of_many_weights_is_not_compiled(probe_run, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(exported, "MOST_COMPILED", 15)
    made = export(probe_run.folder, "c", path=tmp_path / "policy.h")
    assert made.seconds > 0 and made.dense_seconds is None


def test_the_card_tells_of_the_policy(probe_run, tmp_path, quick):
    made = export(probe_run.folder, "safetensors", path=tmp_path / "p.safetensors", generation=8)
    assert made.card == tmp_path / "p.json"
    told, reads = json.loads(made.card.read_text()), load(probe_run.folder, 8).reading
    assert told["task"] == "probe/linear" and told["num_features"] == 20
    assert tuple(told["feature_names"]) == reads.sensors and told["distractors"] == 3
    assert told["law"] == reads.law() and told["policy"] == reads.verdict()
    assert told["reads"] == {
        str(i): reads.inputs[i] for i in np.flatnonzero(reads.weights.any(1)).tolist()
    }
    assert told["weights"] == np.count_nonzero(reads.weights) and told["dense_weights"] == 20
    assert told["generation"] == 8
    assert told["evaluation"] == json.loads(json.dumps(probe_run.rows[8].evaluation._asdict()))
    assert config_of(told["settings"]).digest == probe_run.config.digest
    nesht, train, *words = shlex.split(told["command"])
    parser = Parser()
    add_arguments(parser)
    again = parser.parse_args(words)
    config, _ = read_command(again.settings, given_settings(again))
    assert (nesht, train) == ("nesht", "train") and config.digest == probe_run.config.digest
    assert config.generations == 8


def test_the_command_of_an_infinite_clip_is_understood():
    config = Config(task="probe/linear", policy=PolicyConfig(clip=INF))
    words = shlex.split(command(config, generations=3))
    parser = Parser()
    add_arguments(parser)
    given = parser.parse_args(words[2:])
    made, _ = read_command(given.settings, given_settings(given))
    assert made == dataclasses.replace(config, generations=3)


def test_the_command(probe_run, capsys, tmp_path, quick, monkeypatch):
    out = tmp_path / "mine.py"
    assert main(["export", str(probe_run.folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    kept = probe_run.reading.weights.astype(bool).sum()
    dense = export(probe_run.folder, path=tmp_path / "again.py").dense_size
    assert f"{out.stat().st_size:,} bytes, {kept} of 20 weights (dense: {dense:,} bytes)" in said
    assert "checked: largest difference" in said
    assert re.search(r"one action: \S+ [µn]s \(dense: \S+ [µn]s\), the median in NumPy\n", said)
    assert out.read_text().startswith('"""A policy of probe/linear')


def test_the_command_refuses_in_one_sentence(probe_run, capsys, tmp_path, monkeypatch):
    def refused(*argv):
        assert main(["export", str(probe_run.folder), *argv]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        return told

    assert "invalid choice: 'onx'" in refused("--to=onx")
    assert "give arrays another ending" in refused("--to=safetensors", f"--out={tmp_path}/a.json")
    assert "No such file or directory" in refused(f"--out={tmp_path}/none/policy.py")
    for to in ("onnx", "safetensors"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert f"pip install 'nesht-jax[{to}]'" in refused(f"--to={to}")


def test_python_refuses_another_format(probe_run, unchecked):
    with pytest.raises(ValueError, match="exported to numpy, c, .*, got 'onx'"):
        export(probe_run.folder, "onx")
