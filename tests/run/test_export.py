"""Exported policies: the files themselves are run, and act as the policies that they came from."""

import dataclasses
import json
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
from nesht_jax.run.build import build_policy
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config, PolicyConfig
from nesht_jax.run.export import write_c, write_jax, write_numpy, write_onnx
from nesht_jax.run.load import TrainedPolicy
from nesht_jax.run.plain import largest_difference, plain
from nesht_jax.types import Moments

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
INF = np.inf

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
}


def trained(given, bounds=None, *, task="envpool/Hopper-v5", sparsity=0.7, names=None):
    """A policy with random weights, most of them 0, as ``load`` gives it."""
    task = make_task(task, distractors=1)
    if bounds is not None:
        low, high = (np.full(task.num_actions, bound, np.float32) for bound in bounds)
        task = dataclasses.replace(task, action_low=low, action_high=high)
    task = dataclasses.replace(task, feature_names=names or task.feature_names)
    config = Config(task=task.name, distractors=1, policy=PolicyConfig(**given))
    policy = build_policy(config, task)
    rng = np.random.default_rng(1)

    def drawn(x):
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
    assert run_onnx(tmp_path / "policy.onnx", seen).tolist() == expected
    assert run_jax(tmp_path / "policy.jax", seen).tolist() == expected
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


@compiler
def test_a_policy_that_reads_nothing(tmp_path):
    policy = trained({}, sparsity=1.0)
    made, seen = plain(policy), observations(policy, 3)
    write_numpy(made, tmp_path / "policy.py")
    write_c(made, tmp_path / "policy.h")
    for acts in (run_python(tmp_path / "policy.py", seen), run_c(tmp_path / "policy.h", seen)):
        np.testing.assert_allclose(acts, np.stack([policy(x) for x in seen]), rtol=1e-6)


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


@pytest.mark.parametrize(
    ("given", "task", "message"),
    [
        ({"normalization": "observation"}, "envpool/Hopper-v5", "observation mixes all inputs"),
        ({"convolutions": "dqn2013"}, "envpool/Pong-v5", "export is for dense layers"),
    ],
)
def test_what_is_not_exported_is_told(given, task, message):
    with pytest.raises(ValueError, match=message):
        plain(trained(given, task=task))


def test_the_command(probe_run, capsys, tmp_path, monkeypatch):
    out = tmp_path / "mine.py"
    assert main(["export", str(probe_run.folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    kept = probe_run.reading.weights.astype(bool).sum()
    assert f"{kept} of 20 weights" in said and "checked: largest difference" in said
    assert out.read_text().startswith('"""A policy of probe/linear')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(probe_run.folder), "--to=onnx"]) == 2
    assert "nesht-jax[onnx]" in capsys.readouterr().err
    assert main(["export", str(probe_run.folder), "--to=onx"]) == 2
    assert "invalid choice: 'onx'" in capsys.readouterr().err
