"""Configs by words, from Python: the same as those of the command line."""

from dataclasses import replace

import pytest

from nesht_jax import Config, make_config
from nesht_jax.run.cli import Parser
from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.cli.train import add_arguments
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.run.settings import read_command


def commanded(*argv):
    """The config that a command line means."""
    parser = Parser()
    add_arguments(parser)
    given = parser.parse_intermixed_args(argv)
    return read_command(given.settings, given_settings(given))[0]


@pytest.mark.parametrize(
    ("words", "settings", "argv"),
    [
        (("Pendulum-v1",), {}, []),
        (("Hopper-v5", "select"), {"distractors": 10}, ["--distractors=10"]),
        (
            ("select",),
            {"task": "probe/linear", "sparsity": {"every": 20}, "policy": {"hidden": [4]}},
            ["--task=probe/linear", "--sparsity.every=20", "--policy.hidden=[4]"],
        ),
        (("quickstart",), {"optimizer": {"name": "adam"}}, ["--optimizer.name=adam"]),
    ],
)
def test_words_and_settings_mean_what_they_mean_to_the_command(words, settings, argv):
    assert make_config(*words, **settings) == commanded(*words, *argv)


def test_files_are_merged_and_sections_may_be_made(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("task: probe/linear\nsparsity: {every: 7, keep: 3}\n")
    made = make_config(str(mine), "nes", sparsity={"every": 9})
    assert made.sparsity == SparsityConfig(method="none", every=9, keep=3)
    whole = SparsityConfig(keep=2)
    assert make_config(str(mine), sparsity=whole) == Config(task="probe/linear", sparsity=whole)
    for words in ((str(mine), "probe/countdown"), ("probe/countdown", str(mine))):
        assert make_config(*words) == replace(make_config(str(mine)), task="probe/countdown")
    assert make_config(str(mine), "probe/linear", task="probe/countdown").task == "probe/countdown"
    assert make_config("probe/linear", seed=3) == replace(Config(task="probe/linear"), seed=3)


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (("Hoper-v5",), {}, "unknown task 'Hoper-v5'; did you mean Hopper"),
        (("probe/linear", "Hopper-v5"), {}, "one task a run, got probe/linear and Hopper-v5"),
        (("probe/linear",), {"lr": 3}, "here it is called optimizer.learning_rate"),
        (("probe/linear",), {"sparsity": {"evry": 3}}, "did you mean sparsity.every"),
        (("select",), {}, "name a task"),
        (("papr",), {"task": "probe/linear"}, "unknown task 'papr'.*of settings .* is paper"),
        (("probe/linear", "selct"), {}, "unknown task 'selct'.*of settings .* is select"),
        (("quickstrat",), {}, "unknown task 'quickstrat'.*of settings .* is quickstart"),
    ],
)
def test_what_means_nothing_is_one_sentence(words, settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(*words, **settings)
