"""Each example runs, says what it promises and leaves its pictures; jupytext reads it."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def run(name, folder, *changes):
    """Standard output of an example in which a reader has changed some numbers."""
    code = EXAMPLES[name].read_text(encoding="utf-8")
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    script = folder / f"{name}.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "TMPDIR": str(folder)}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_picture(path):
    """Whether a picture has more in it than its background."""
    return plt.imread(path).std() > 0.01


@pytest.mark.slow
def test_which_sensors(tmp_path):
    said = run("which_sensors", tmp_path, ("STEPS = 500_000", "STEPS = 200_000"))
    told = re.search(
        r"After 200,000 steps the policy reads (\d+) of 17 sensors and (\d+) of 170 irrelevant "
        r"inputs: (.*)\.\n",
        said,
    )
    assert 1 <= int(told[1]) == len(told[3].split(", ")) and int(told[2]) <= 5
    assert re.search(r"^back thigh = tanh\(.*\)$", said, re.MULTILINE)
    assert is_picture(re.search(r"^the picture: (.*)$", said, re.MULTILINE)[1])


def test_which_sensors_says_of_the_whole_budget_what_was_measured():
    with (ROOT / "benchmarks" / "quickstart.csv").open(encoding="utf-8", newline="") as file:
        file.readline()
        runs = list(csv.DictReader(file))

    def ends(column):
        values = [round(float(row[column])) for row in runs]
        return " to ".join(map(str, sorted({min(values), max(values)})))

    text = " ".join(EXAMPLES["which_sensors"].read_text(encoding="utf-8").replace("#", "").split())
    assert f"returned {ends('return')}, and read {ends('true_read')} of 17 sensors" in text
    assert f"and {ends('distractors_read')} of 170 irrelevant inputs" in text


@pytest.mark.slow
def test_own_simulator(tmp_path):
    said = run("own_simulator", tmp_path)
    verdict = re.search(r"reads (\d) of 3 sensors and (\d+) of 30 irrelevant inputs", said)
    assert int(verdict[1]) >= 1 and int(verdict[2]) <= 2
    assert re.search(r"heater = 0\.5 \+ 0\.5 tanh\(-\S+ air", said)
    without_jax = re.search(r"without JAX: largest difference (\S+) over 48 actions", said)
    assert float(without_jax[1]) < 1e-5
    assert re.search(r"tanh\(-\S+ air.*\), and 0 irrelevant inputs", said)
    (exported,) = tmp_path.glob("own_simulator-*/policy.py")
    assert "jax" not in re.findall(r"^(?:import|from) (\w+)", exported.read_text(encoding="utf-8"))
    assert is_picture(re.search(r"^the picture: (.*)$", said, re.MULTILINE)[1])


@pytest.mark.slow
def test_figure_of_a_paper(tmp_path):
    changes = ("[0, 15, 30]", "[0, 30]"), ("SEEDS = range(5)", "SEEDS = range(2)")
    said = run("figure_of_a_paper", tmp_path, *changes)
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cases = {(row["method"], row["irrelevant"], row["seed"]) for row in rows}
    assert len(rows) == len(cases) == 2 * 2 * 2
    assert all(50_000 <= int(row["steps"]) < 50_000 + 32 * 200 for row in rows)
    table = (folder / "table.tex").read_text(encoding="utf-8")
    assert table in said
    (nes, *_), (selected, *_) = (
        map(float, re.search(rf"^{method} .* & (\d+) \[(\d+), (\d+)\]", table, re.M).groups())
        for method in ("NES", "NES-selection")
    )
    assert selected > nes
    assert is_picture(folder / "figure.png")


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_a_notebook(name):
    notebook = jupytext.read(EXAMPLES[name], fmt="py:percent")
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[:2] == ["markdown", "code"] and notebook.cells[0].source.startswith("# ")


def test_the_page_shows_every_example():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert set(re.findall(r"literalinclude\} \.\./examples/(\w+)\.py", page)) == set(EXAMPLES)


@pytest.mark.slow
def test_sparse_network(tmp_path):
    said = run("sparse_network", tmp_path)
    told = re.findall(r"^(\w+) +([\d,]+) weights read (\d) of .* set ([\d.]+)$", said, re.MULTILINE)
    names, weights, read, errors = zip(*told, strict=True)
    assert names == ("dense", "static", "SET", "RigL", "pruning")
    assert all(int(n.replace(",", "")) <= 380 for n in weights[1:])
    dense, static, *grown = map(float, errors)
    assert max(grown) < 0.3 * min(dense, static) and read[2:] == ("5", "5", "5")
