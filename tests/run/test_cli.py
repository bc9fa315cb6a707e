"""The command line: one clear sentence for bad input, help for everything."""

import json
import sys

import jax
import pytest

from nesht_jax.run import cli
from nesht_jax.run.cli import _keep_compilations, main
from nesht_jax.run.evaluate import RunScore, Score


def complaint(capsys, *argv):
    """The one sentence on standard error; nothing else, exit code 2."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nesht: ")
    return err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "'trian'"),
        ([], "train"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--sparsity=0.5"], "unknown option 'sparsity'; did you mean threshold.sparsity"),
        (["train", "--threshold.sparsity=1"], "sparsity must be in [0, 1), got 1"),
        (["train", "--threshold.sparsity=much"], "threshold.sparsity must be float, got much"),
        (["train", "--horizon=soon"], "horizon must be int or null, got soon"),
        (["train", "--slots=0"], "slots must be at least 1 or null, got 0"),
        (["train", "--task=envpool/Hopper-v5", "--slots=4"], "slots are for rooms that play from"),
        (["train", "--members=5"], "members must be even if mirrored, got 5"),
        (["train", "--task=envpool/Hoper-v5"], "the nearest are envpool/Hopper-v5"),
        (["train", "--task=mujoco/hopper"], "unknown room 'mujoco'"),
        (["train", "--task=probe/liner"], "probe/linear"),
        (["train", "--task=envpool/Hopper-v5", "--task_options={frame_skp: 3}"], "frame_skip"),
        (["train", "--optimizer.name=adm"], "did you mean adam"),
        (["train", "--resume=nowhere"], "there is no run folder nowhere"),
        (["eval"], "run"),
        (["eval", "nowhere"], "there is no run folder nowhere"),
        (["bench", "treshold"], "unknown benchmark 'treshold'; did you mean threshold"),
        (["envs", "brx"], "did you mean brax"),
    ],
)
def test_bad_input(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("tsk: probe/linear", "unknown option 'tsk'; did you mean task"),
        ("noise: lots", "noise must be int, got lots"),
        ("threshold: {sparsty: 0.5}", "unknown option"),
        ("task: [", "config"),
    ],
)
def test_bad_files(capsys, tmp_path, yaml, message):
    (tmp_path / "bad.yaml").write_text(yaml)
    assert message in complaint(capsys, "train", str(tmp_path / "bad.yaml"))


def test_a_folder_that_is_no_run(capsys, tmp_path):
    message = f"{tmp_path} is not a run folder"
    assert message in complaint(capsys, "train", f"--resume={tmp_path}")
    assert message in complaint(capsys, "eval", str(tmp_path))


def test_a_resumed_run_keeps_its_config(capsys, probe_run):
    said = complaint(capsys, "train", f"--resume={probe_run.folder}", "--sigma=0.5")
    assert "keeps its config" in said and "sigma" in said


def test_eval_refuses_a_task_of_other_sizes(capsys, probe_run):
    said = complaint(capsys, "eval", str(probe_run.folder), "--task=probe/countdown")
    assert "(5, 1)" in said and "(2, 1)" in said


def test_eval_of_a_game_takes_options_and_tells_human_normalised_scores(capsys, monkeypatch):
    asked = {}

    def evaluated(folder, **rules):
        asked.update(rules)
        halfway, human = (Score(mean, 0.1, 0.0, 1.0, 5, 9.0) for mean in (-3.05, 14.6))
        return RunScore("envpool/Pong-v5", 7, halfway, 0.9, human, 0.0)

    monkeypatch.setattr(cli, "evaluate_run", evaluated)
    assert main(["eval", "run", "--episodes=5", "--task_options={pixel_noise: 20}"]) == 0
    assert asked["options"] == {"pixel_noise": 20} and asked["episodes"] == 5
    said = capsys.readouterr().out
    assert "human-normalised: 0.500 with threshold, 1.000 without" in said
    assert "…" not in said.replace(" … ", "")  # nothing of the table is cut off


def test_train_resume_eval(capsys, tmp_path):
    out = str(tmp_path / "run")
    options = ["--task=probe/linear", "--noise=2", "--members=8", "--policy.output=clip"]
    assert main(["train", *options, "--generations=4", f"--out={out}"]) == 0
    assert main(["train", f"--resume={out}", "--generations=7"]) == 0
    told = capsys.readouterr().out
    assert "after 4 generations" in told and "after 7 generations" in told
    assert main(["eval", out, "--episodes=20", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["generation"] == 7 and scores["thresholded"]["episodes"] == 20
    low, mean, high = (scores["thresholded"][key] for key in ("low", "mean", "high"))
    assert low < mean < high
    assert scores["thresholded_sparsity"] == pytest.approx(14 / 16)
    assert main(["eval", out, "--episodes=20"]) == 0
    assert "without threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    "variables, folder",
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/nesht_jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/user"}, "/user/.cache/nesht_jax"),
    ],
)
def test_what_is_compiled_goes_to_the_users_cache_folder(monkeypatch, variables, folder):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        _keep_compilations()
        assert jax.config.jax_compilation_cache_dir == folder
        jax.config.update("jax_compilation_cache_dir", "chosen")
        _keep_compilations()
        assert jax.config.jax_compilation_cache_dir == "chosen"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["envs"], ["bench"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    assert "usage: nesht" in out


def test_bench_lists_its_tables_and_makes_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["bench"]) == 0
    assert "threshold    H_k: the mask of the k largest" in capsys.readouterr().out
    out = tmp_path / "table.csv"
    options = ["--sizes=1000", "--repeats=2", f"--out={out}"]
    assert main(["bench", "threshold", *options]) == 0
    versions, header, first, *_ = out.read_text().splitlines()
    assert versions.startswith("# ") and " cores, Python " in versions
    assert header.split(",")[:3] == ["d", "k", "method"]
    assert first.split(",")[:3] == ["1000", "100", "hard_threshold"]


def test_envs_lists_every_room(capsys):
    assert main(["envs"]) == 0
    told = capsys.readouterr().out
    some = "envpool/Hopper-v5 mjx/hopper brax/ant gymnasium/CartPole-v1 gymnax/CartPole-v1"
    for task in (*some.split(), "playground/WalkerRun", "probe/linear"):
        assert f"  {task}\n" in told
