"""A sweep's rows are its runs' own metrics, and its lines what the statistics say of them."""

import csv
import io
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from nesht_jax.report.figures import sweep_picture
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import EvaluationRow, Row
from nesht_jax.report.statistics import bootstrap_interval
from nesht_jax.report.sweeps import SweptRun, as_text, combinations, csv_table, in_words

READING = Reading(("x", "y"), ("motor",), np.array([[1.0], [0.0], [0.0], [2.0]]), np.zeros(1))
RETURNS = {0.5: [1.0, 2.0, 6.0], 0.9: [3.0, 3.5, 2.5]}


def evaluated(mean):
    return EvaluationRow(mean, 0.25, None, None, 4, 0, 10.0, 0.5, [])


def run(values, seed, mean, reading=READING):
    metrics = [
        Row(0, evaluation=evaluated(-1.0)),
        Row(1, steps=30),
        Row(2, steps=12 + seed, evaluation=evaluated(mean)),
    ]
    return SweptRun(values, seed, f"run{seed}", metrics, reading)


def swept(option="sparsity.fraction", returns=RETURNS):
    values = [(value, seed) for seed in range(3) for value in returns]
    return [run({option: value}, seed, returns[value][seed]) for value, seed in values]


def test_a_row_tells_the_last_evaluation_and_all_steps_of_a_run():
    assert run({"distractors": 1}, 2, 5.0).row() == {
        "distractors": 1,
        "seed": 2,
        "return": 5.0,
        "standard_error": 0.25,
        "sensors": 2,
        "sensors_read": 1,
        "irrelevant": 2,
        "irrelevant_read": 1,
        "steps": 44,
        "run": "run2",
    }


def test_of_images_and_of_runs_without_a_return_a_row_has_none():
    row = run({}, 0, None, reading=None).row()
    assert row["return"] is row["sensors"] is row["irrelevant_read"] is None
    assert SweptRun({}, 0, "cut", [], None).row()["return"] is None


def test_a_curve_has_steps_and_return_of_each_evaluation():
    steps, returns = run({}, 1, 5.0).curve()
    assert steps.tolist() == [0, 43] and returns.tolist() == [-1, 5]
    assert run({}, 1, None).curve()[1].tolist() == [-1]


def test_runs_are_gathered_by_their_values_and_their_interval_is_the_bootstrap_of_the_mean():
    found = combinations(swept())
    assert [c.values for c in found] == [{"sparsity.fraction": 0.5}, {"sparsity.fraction": 0.9}]
    for combination in found:
        returns = RETURNS[combination.values["sparsity.fraction"]]
        assert combination.column("return").tolist() == returns
        assert combination.interval() == bootstrap_interval([returns], np.mean)
        low, high = combination.interval()
        assert min(returns) <= low < np.mean(returns) < high <= max(returns)


def test_values_that_are_lists_are_gathered_too():
    runs = [run({"policy.hidden": hidden}, s, 1.0) for s in (0, 1) for hidden in ((), (8,))]
    assert [len(c.runs) for c in combinations(runs)] == [2, 2]


def test_one_seed_or_a_run_without_return_has_no_interval():
    (one,) = combinations([run({}, 0, 1.0)])
    (lost,) = combinations([run({}, 0, 1.0), run({}, 1, None)])
    assert all(map(math.isnan, [*one.interval(), *lost.interval()]))
    assert one.column("return").mean() == 1 and math.isnan(lost.column("return").mean())


def test_the_table_has_a_row_a_run_and_empty_cells_where_there_is_no_number():
    runs = [*swept(), run({"sparsity.fraction": 0.5}, 3, None, reading=None)]
    rows = list(csv.DictReader(io.StringIO(csv_table(runs))))
    assert [float(row["return"]) for row in rows[:-1]] == [r.row()["return"] for r in runs[:-1]]
    assert rows[0]["sparsity.fraction"] == "0.5" and rows[0]["run"] == "run0"
    assert rows[-1]["return"] == rows[-1]["sensors_read"] == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (3, "3"),
        (None, "null"),
        (True, "true"),
        ("adam", "adam"),
        ((64, 64), "[64, 64]"),
        ((), "[]"),
        ({"b1": 0.9}, '{"b1": 0.9}'),
        (math.inf, ".inf"),
    ],
)
def test_values_are_written_as_the_command_line_takes_them(value, text):
    assert as_text(value) == text


def test_values_in_words():
    assert in_words({"policy.hidden": (8,), "seed": 1}) == "policy.hidden [8], seed 1"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws the picture of runs, opens it, and gives its axes."""
    kept = []
    save = Figure.savefig

    def keep(figure, path, dpi):
        kept.append(figure)
        save(figure, path, dpi=dpi)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(runs):
        path = tmp_path / "sweep.png"
        sweep_picture(combinations(runs), path, title="probe/linear, 3 seeds")
        image = matplotlib.image.imread(path)
        assert image.shape[0] >= 500 and image.shape[1] == 840 and image.std() > 0.05
        return kept[-1].axes[0]

    return draw


def test_one_option_of_numbers_is_an_axis_with_intervals(drawn):
    axes = drawn(swept()[::-1])  # values are sorted
    assert axes.get_xlabel() == "sparsity.fraction" and axes.get_xscale() == "linear"
    runs, means = (line.get_xydata().tolist() for line in axes.get_lines())
    assert sorted(runs) == sorted([v, r] for v, returns in RETURNS.items() for r in returns)
    assert means == [[0.5, 3.0], [0.9, 3.0]]
    (intervals,) = axes.collections
    ends = [segment[:, 1].tolist() for segment in intervals.get_segments()]
    assert ends == [list(combination.interval()) for combination in combinations(swept())]


def test_numbers_of_several_magnitudes_have_a_logarithmic_axis(drawn):
    rates = {0.001: [1.0, 2.0, 3.0], 0.01: [1.0, 1.0, 1.0], 0.1: [4.0, 5.0, 6.0]}
    assert drawn(swept("optimizer.learning_rate", rates)).get_xscale() == "log"


@pytest.mark.parametrize("values", [("sgd", "adam"), (True, False), (None, 5), ((), (8,))])
def test_other_values_have_a_learning_curve_each(drawn, values):
    runs = swept("an.option", dict(zip(values, RETURNS.values(), strict=True)))
    axes = drawn(runs)
    assert axes.get_xlabel().startswith("steps")
    _, labels = axes.get_legend_handles_labels()
    assert labels == [f"an.option {as_text(value)}" for value in values]
    means = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    for line, value in zip(means, values, strict=True):
        curves = [run.curve() for run in runs if run.values["an.option"] == value]
        end = min(steps[-1] for steps, _ in curves)
        mean = np.mean([np.interp(end, *curve) for curve in curves])
        assert line.get_xydata()[-1].tolist() == pytest.approx([end, mean])


def test_runs_without_a_return_and_many_combinations_are_drawn(drawn):
    many = [run({"a": "x", "b": i}, s, float(i)) for i in range(14) for s in (0, 1)]
    axes = drawn(
        [*many, run({"a": "y", "b": 0}, 0, None), SweptRun({"a": "z", "b": 0}, 0, "", [], None)]
    )
    assert len({line.get_color() for line in axes.get_lines()}) == 16
    drawn(swept(returns=RETURNS | {0.7: [None, None, None]}))
    drawn([run({}, seed, 1.0) for seed in range(3)])
