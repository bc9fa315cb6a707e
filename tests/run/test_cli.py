"""The command line: one clear sentence for bad input, help for everything."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import jax
import pytest

from nesht_jax.report.rows import read_rows
from nesht_jax.report.statistics import Score
from nesht_jax.run import evaluate, machine
from nesht_jax.run.cli import COMMANDS, Parser, main
from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.cli.train import add_arguments
from nesht_jax.run.evaluate import RunScore
from nesht_jax.run.machine import has_accelerator, keep_compilations
from nesht_jax.run.names import tuned_config
from nesht_jax.run.settings import read_command
from nesht_jax.run.yaml import config_of, read


def complaint(capsys, *argv):
    """The one sentence on standard error; nothing else, exit code 2."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nesht: ")
    return err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["train"], "name a task, as in `nesht train Hopper-v5`"),
        (["train", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["train", "probe/linear", "--out", ""], "out must name a folder, got an empty text"),
        (
            ["train", "probe/linear", "--search.space", "[edge]"],
            "search.space must be a list of colors, edges, mask, activations, got ['edge']",
        ),
        (
            ["train", "probe/linear", "--agent.learning_rate_decay"],
            "agent.learning_rate_decay is of an agent: set agent.name",
        ),
        (["train", "Hoper-v5"], "unknown task 'Hoper-v5'; did you mean Hopper-v5"),
        (["train", "Hopper-v5", "Ant-v5"], "one task a run, got Hopper-v5 and Ant-v5"),
        (["train", "--env=Hopper-v5"], "unknown option 'env'; here it is called task"),
        (["train", "probe/linear", "--search.edges=6"], "search.edges does nothing"),
        (["train", "probe/linear", "--agent.clip=0.1"], "does nothing without agent.name"),
        (["train", "dqn", "--task=CartPole-v1", "--algorithm.rank=1"], "with agent.name dqn"),
        (["train", "--lr", "0.1"], "here it is called optimizer.learning_rate"),
        (["train", "--threshold.sparsity=1"], "here it is called sparsity.fraction"),
        (["train", "--sparsity.fractoin=1"], "did you mean sparsity.fraction"),
        (["train", "probe/linear", "--sparsity.fraction=1"], "sparsity.fraction must be in [0, 1)"),
        (["train", "probe/linear", "--sparsity.fraction=much"], "must be a number, got 'much'"),
        (["train", "probe/linear", "--horizon=soon"], "horizon must be a whole number or null"),
        (["train", "probe/linear", "--steps=0"], "steps must be at least 1, got 0"),
        (["train", "probe/linear", "--algorithm.best_directions=999"], "must be at most "),
        (["train", "probe/linear", "--policy.start=ones"], "must be one of normal, zero"),
        (["train", "probe/linear", "--track=wandbb"], "one of tensorboard, wandb, trackio or null"),
        (["train", "probe/linear", "--num_envs=0"], "num_envs must be at least 1, got 0"),
        (["train", "probe/linear", "--policy.hidden=8,4"], "a list, as [64, 64], got '8,4'"),
        (["train", "probe/linear", "--task_options=3"], "a mapping, as {name: value}, got 3"),
        (["train", "probe/linear", "--task_options={"], "--task_options is not YAML"),
        (["train", "envpool/Hopper-v5", "--num_envs=4"], "num_envs"),
        (["train", "probe/linear", "--algorithm.num_members=5"], "must be even if mirrored, got 5"),
        (["train", "--task=envpool/Hoper-v5"], "did you mean envpool/Hopper-v5"),
        (["train", "--task=mujoco/hopper"], "unknown suite 'mujoco'"),
        (["train", "--task=probe/liner"], "probe/linear"),
        (["train", "mjx/CartPole-v1"], "CartPole-v1 is in envpool/CartPole-v1"),
        (["train", "envpool/Hopper-v5", "--task_options={frame_skp: 3}"], "frame_skip"),
        (["train", "probe/linear", "--optimizer.name=adm"], "did you mean adam"),
        (["train", "probe/linear", "--seed"], "--seed"),
        (["train", "--resume=nowhere"], "there is no run folder nowhere"),
        (["eval"], "RUN"),
        (["eval", "nowhere"], "there is no run folder nowhere"),
        (["eval", "nowhere", "--episods=3"], "'episods'; did you mean episodes"),
        (["bench", "treshold"], "unknown benchmark 'treshold'; did you mean threshold"),
        (["envs", "nothing-like-it"], "no task holds 'nothing-like-it'"),
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
        ("distractors: lots", "distractors must be a whole number, got 'lots'"),
        ("sparsity: {fractoin: 0.5}", "unknown option 'sparsity.fractoin'; did you mean sparsity."),
        ("optimizer: this.module", "optimizer must be a mapping of the options of Optimizer"),
        ("policy: true", "policy must be a mapping of the options of Policy, got True"),
        ("task: [", "bad.yaml is not YAML"),
        ("", "bad.yaml must hold settings"),
    ],
)
def test_bad_files(capsys, tmp_path, yaml, message):
    (tmp_path / "bad.yaml").write_text(yaml)
    assert message in complaint(capsys, "train", str(tmp_path / "bad.yaml"), "--task=probe/linear")


def test_a_folder_that_is_no_run(capsys, tmp_path):
    message = f"{tmp_path} is not a run folder"
    assert message in complaint(capsys, "train", f"--resume={tmp_path}")
    assert message in complaint(capsys, "eval", str(tmp_path))


@pytest.mark.slow
def test_a_resumed_run_keeps_its_config(capsys, probe_run):
    said = complaint(capsys, "train", f"--resume={probe_run.folder}", "--algorithm.sigma=0.5")
    assert "keeps its config but for generations, steps, track; got algorithm.sigma" in said


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (["--generations", "11"], "has 12 generations, more than 11"),
        (["--steps", "100"], "has more than 100 steps"),
    ],
)
def test_a_limit_that_is_passed_is_refused_and_the_saved_one_stays(
    capsys, probe_run, limit, message
):
    before = (probe_run.folder / "config.yaml").read_text()
    assert message in complaint(capsys, "train", "--resume", str(probe_run.folder), *limit)
    assert (probe_run.folder / "config.yaml").read_text() == before


@pytest.mark.slow
def test_a_new_limit_takes_the_place_of_the_old(capsys, finished):
    done = sum(row.steps for row in read_rows(finished.folder / "metrics.jsonl"))
    limit = done + 1
    assert main(["train", "--resume", str(finished.folder), "--steps", str(limit)]) == 0
    assert sum(row.steps for row in read_rows(finished.folder / "metrics.jsonl")) >= limit
    assert read(finished.folder / "config.yaml").get("generations") is None


def test_one_episode_has_no_interval(capsys, probe_run):
    assert main(["eval", str(probe_run.folder), "--episodes", "1"]) == 0
    told = capsys.readouterr().out
    assert "none" in told and "nan" not in told


def test_a_report_of_a_run_and_itself_is_refused(capsys, probe_run):
    folder = str(probe_run.folder)
    assert "a run is named twice" in complaint(capsys, "report", folder, folder + "/")


def test_eval_refuses_a_task_of_other_sizes(capsys, probe_run):
    said = complaint(capsys, "eval", str(probe_run.folder), "--task=probe/countdown")
    assert "(5, 1)" in said and "(2, 1)" in said


def test_eval_of_a_game_takes_options_and_tells_human_normalised_scores(capsys, monkeypatch):
    asked = {}

    def evaluated(folder, **rules):
        asked.update(rules)
        halfway, human = (Score(mean, 0.1, 0.0, 1.0, 5, 9.0, 0) for mean in (-3.05, 14.6))
        return RunScore("envpool/Pong-v5", 7, halfway, 0.9, human, 0.0)

    monkeypatch.setattr(evaluate, "evaluate_run", evaluated)
    monkeypatch.setattr("nesht_jax.run.cli.eval.read_config", lambda folder, **_: None)
    assert main(["eval", "run", "--episodes=5", "--task_options={pixel_noise: 20}"]) == 0
    assert asked["options"] == {"pixel_noise": 20} and asked["episodes"] == 5
    said = capsys.readouterr().out
    assert "human-normalized: 0.500 with threshold, 1.000 without" in said
    assert "…" not in said.replace(" … ", "")  # nothing of the table is cut off


@pytest.mark.slow
def test_train_resume_eval(capsys, tmp_path):
    out = str(tmp_path / "run")
    options = ["probe/linear", "--distractors=2", "--algorithm.num_members=8"]
    options += ["--sparsity.fraction=0.9"]
    assert main(["train", *options, "--generations=4", f"--out={out}"]) == 0
    assert main(["train", f"--resume={out}", "--generations=7"]) == 0
    told = capsys.readouterr().out
    assert "after 4 generations, 320 steps" in told and "after 7 generations, 560 steps" in told
    assert f"Train it further: nesht train --resume {out} --generations 14" in told
    assert main(["eval", out, "--episodes=20", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["generation"] == 7 and scores["thresholded"]["episodes"] == 20
    low, mean, high = (scores["thresholded"][key] for key in ("low", "mean", "high"))
    assert low < mean < high
    assert scores["thresholded_sparsity"] == pytest.approx(14 / 16)
    assert main(["eval", out, "--episodes=20"]) == 0
    assert "without threshold" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_ends_by_its_steps_and_says_how_to_go_on(capsys, tmp_path):
    out = str(tmp_path / "run")
    options = ["probe/linear", "--algorithm.num_members=8", "--steps=200", f"--out={out}"]
    assert main(["train", *options]) == 0
    told = capsys.readouterr().out
    assert "after 3 generations, 240 steps" in told
    assert f"Train it further: nesht train --resume {out} --steps 400\n" in told
    assert main(["train", f"--resume={out}", "--steps=400"]) == 0
    told = capsys.readouterr().out
    assert "after 5 generations, 400 steps" in told and "--steps 800" in told


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
        keep_compilations()
        assert jax.config.jax_compilation_cache_dir == folder
        jax.config.update("jax_compilation_cache_dir", "chosen")
        keep_compilations()
        assert jax.config.jax_compilation_cache_dir == "chosen"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("command", [[name] for name in COMMANDS])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    assert "usage: nesht" in out


def test_bench_lists_its_tables_and_makes_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["bench"]) == 0
    assert "threshold      H_k: the mask of the k largest" in capsys.readouterr().out
    out = tmp_path / "table.csv"
    options = ["--sizes=1000", "--repeats=2", f"--out={out}"]
    assert main(["bench", "threshold", *options]) == 0
    versions, header, first, *_ = out.read_text().splitlines()
    assert versions.startswith("# ") and " cores, Python " in versions
    assert header.split(",")[:3] == ["d", "k", "method"]
    assert first.split(",")[:3] == ["1000", "100", "hard_threshold"]


def test_bare_nesht_prints_help(capsys):
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert bare == capsys.readouterr().out and all(name in bare for name in COMMANDS)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nesht {version('nesht-jax')}\n"


def test_envs_lists_every_suite_with_sizes(capsys):
    assert main(["envs"]) == 0
    told = capsys.readouterr().out
    some = "envpool/Hopper-v5 mjx/hopper brax/ant gymnasium/CartPole-v1 gymnax/CartPole-v1"
    for task in (*some.split(), "playground/WalkerRun", "probe/linear"):
        assert re.search(rf"^  {task} +\S+ in, +\d+ (choices|numbers)", told, re.MULTILINE), task


def test_envs_searches_every_suite(capsys):
    assert main(["envs", "hopper"]) == 0
    told = capsys.readouterr().out
    assert "envpool/Hopper-v5" in told and "brax/hopper" in told and "Ant" not in told


def test_envs_tells_what_installs_a_suite(capsys, monkeypatch):
    monkeypatch.setattr("nesht_jax.run.cli.envs.installed", lambda suite: False)
    assert main(["envs", "brax"]) == 0
    assert "pip install 'nesht-jax[brax]'" in capsys.readouterr().out


def test_a_task_named_alone_gets_its_tuned_settings():
    config, notes = read_command(["Pendulum-v1"], {})
    tuned = tuned_config("envpool/Pendulum-v1")
    assert config == config_of(read(tuned)) != config_of({"task": "envpool/Pendulum-v1"})
    assert any("tuned" in note for note in notes) and any("gymnasium" in note for note in notes)
    config, notes = read_command(["Pendulum-v1", "nes"], {"seed": 3})
    dense = {"sparsity": {"method": "none"}}
    assert config == config_of({"task": "envpool/Pendulum-v1", "seed": 3, **dense})
    assert not any("tuned" in note for note in notes)


def test_settings_may_follow_options(tmp_path):
    (tmp_path / "mine.yaml").write_text("distractors: 3")
    parser = Parser()
    add_arguments(parser)
    argv = ["probe/linear", "--seed", "4", str(tmp_path / "mine.yaml"), "--algorithm.mirrored"]
    given = parser.parse_intermixed_args(argv)
    config, _ = read_command(given.settings, given_settings(given))
    assert (config.seed, config.distractors, config.algorithm.mirrored) == (4, 3, True)


def test_a_reader_that_has_read_enough_ends_a_list_in_silence():
    words = [sys.executable, "-m", "nesht_jax.run.cli", "envs"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert (listing.stderr.read(), listing.wait(120)) == (b"", 141)


def test_a_platform_that_is_not_there_is_one_sentence(monkeypatch):
    def unable():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "default_backend", unable)
    with pytest.raises(ValueError, match="JAX cannot use .* on this machine"):
        has_accelerator()


SLOW_MODULES = ("jax", "optax", "mujoco", "envpool", "gymnasium", "brax", "matplotlib", "orbax")


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["train", "--help"],
        ["sweep", "--help"],
        ["envs"],
        ["train", "Hoper-v5"],
        ["train", "--lr=1"],
        ["sweep", "probe/linear", "--seed=1..0", "--out=x"],
    ],
)
def test_help_lists_and_typos_load_nothing_slow(argv):
    """So that they answer at once: JAX takes a second to import, simulators several."""
    code = (
        "import contextlib, io, sys\nfrom nesht_jax.run.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({argv!r})\nprint([m for m in {SLOW_MODULES!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def run_nesht(*argv, cwd, **environment):
    command = [sys.executable, "-m", "nesht_jax.run.cli", *argv]
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


@pytest.mark.slow
def test_no_encoding_and_no_default_of_jax_ends_a_run(tmp_path):
    (tmp_path / "mine.yaml").write_text("# café\ntask: probe/linear\n", encoding="utf-8")
    options = ["--algorithm.num_members=8", "--generations=2", "--out=run"]
    ambient = {
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
    }
    done = run_nesht("train", "mine.yaml", *options, cwd=tmp_path, **ambient)
    assert done.returncode == 0, done.stderr
    plain = run_nesht("train", "mine.yaml", *options[:-1], "--out=plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("run", "plain")]
    same = [[row._replace(seconds=0.0) for row in some] for some in rows]
    assert same[0] == same[1]


@pytest.mark.slow
def test_a_platform_that_jax_does_not_know_is_one_sentence(tmp_path):
    done = run_nesht("train", "probe/linear", "--out=run", cwd=tmp_path, JAX_PLATFORMS="gpuu")
    assert done.returncode == 2 and done.stderr.startswith("nesht: JAX cannot use 'gpuu'")
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    out = f"--out={tmp_path / 'file' / 'run'}"
    assert "cannot be made" in complaint(capsys, "train", "probe/linear", out)


def test_ctrl_c_before_a_run_begins_is_no_traceback(capsys, tmp_path, monkeypatch):
    def interrupted(config, resume):
        raise KeyboardInterrupt

    monkeypatch.setattr("nesht_jax.run.train.start", interrupted)
    assert main(["train", "probe/linear", f"--out={tmp_path / 'run'}"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(capsys, tmp_path, monkeypatch):
    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nesht_jax.run.train.Metrics.append", full)
    out = str(tmp_path / "run")
    small = ["--algorithm.num_members=8", "--generations=2"]
    assert main(["train", "probe/linear", f"--out={out}", *small]) == 1
    assert capsys.readouterr().err == "nesht: No space left on device\n"
    monkeypatch.undo()
    assert main(["train", f"--resume={out}"]) == 0


@pytest.mark.slow
def test_an_accelerator_that_jax_cannot_use_is_told_where_it_would_count(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr(machine, "ACCELERATORS", {str(tmp_path): ("a TPU", "tpu")})
    small = ["--algorithm.num_members=4", "--generations=1", "--evaluation.episodes=1"]
    for task, told in (("probe/linear", True), ("gymnasium/CartPole-v1", False)):
        assert main(["train", task, *small, f"--out={tmp_path / task}"]) == 0
        sentence = "a TPU is here and idle, as JAX has no support of it: pip install 'jax[tpu]'"
        assert (sentence in capsys.readouterr().out) == told
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert machine.idle_accelerator() is None
