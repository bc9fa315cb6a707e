"""Tables and figures in Markdown are what their CSV files say."""

import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "tables.py"
SPEC = importlib.util.spec_from_file_location("tables", SCRIPT)
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)

CSV = """# cpu, 2 cores, jax 0.10.2, commit abc1234-dirty
task,seed,method,seconds,reached,frames
b/one,0,lax.top_k,1.0,True,
b/one,1,lax.top_k,2.5,False,
b/one,0,rank 1,0.25,True,7
a/two,0,lax.top_k,4.0,True,
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "some.csv").write_text(CSV, encoding="utf-8")
    return tmp_path


def table(folder, *lines, body=""):
    made = tables.rendered("\n".join(["<!-- table: some.csv", *lines, f"-->\n{body}<!-- end -->"]),
                           folder)  # fmt: skip
    return made.split("-->\n", 1)[1].removesuffix("<!-- end -->").splitlines()


def value(folder, recipe):
    made = tables.rendered(f"x <!-- value: some.csv{recipe} -->old<!-- end --> y", folder)
    assert made.startswith(f"x <!-- value: some.csv{recipe} -->")
    return made.split(" -->")[1].split("<!--")[0]


@pytest.mark.parametrize("path", tables.markdown_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_table_and_figure_agrees_with_its_csv(path):
    text = path.read_text(encoding="utf-8")
    made = tables.rendered(text, path.parent)
    assert made == text, "python benchmarks/tables.py writes it anew"


def test_every_row_is_a_line_by_default(folder):
    assert table(folder, "| task | `{task}`", "| s | {seconds:.2f}") == [
        "| task | s |",
        "| --- | --: |",
        "| `b/one` | 1.00 |",
        "| `b/one` | 2.50 |",
        "| `b/one` | 0.25 |",
        "| `a/two` | 4.00 |",
    ]


def test_lines_are_chosen_and_sorted(folder):
    lines = table(folder, "where: seed=0, method=lax.top_k|none", "sort: task", "| s | {seconds}")
    assert lines[2:] == ["| 4.0 |", "| 1.0 |"]


def test_a_group_is_a_line_with_statistics(folder):
    lines = table(
        folder,
        "where: method=lax.top_k",
        "group: task",
        "| task | {task}",
        "| all | {mean(seconds)} {median(seconds)} {min(seconds):g} {max(seconds)} {sum(reached)}",
        "| n | {count(seed)}",
    )
    assert lines[2:] == ["| b/one | 1.75 1.75 1 2.5 1 | 2 |", "| a/two | 4.0 4.0 4 4.0 1 | 1 |"]


def test_the_error_is_that_of_the_mean(folder):
    expected = statistics.stdev([1.0, 2.5]) / 2**0.5
    assert value(folder, " where task=b/one, method=lax.top_k: {error(seconds):.6f}") == (
        f"{expected:.6f}"
    )


def test_columns_are_taken_across_the_values_of_another(folder):
    lines = table(
        folder,
        "where: seed=0",
        "group: task",
        "across: method",
        "| top | {seconds@lax.top_k}",
        "| low | {seconds@rank 1 * 1000:.0f} ({frames@rank 1})",
    )
    assert lines[2:] == ["| 1.0 | 250 (7) |", "| 4.0 | – |"]


def test_a_figure_stands_in_a_sentence(folder):
    assert value(folder, " where task=a/two: {seconds:.1f}") == "4.0"
    assert value(folder, " where task=a/two across method: {seconds@lax.top_k * 2:g}") == "8"
    assert value(folder, ": {device} at {commit}") == "cpu, 2 cores at abc1234-dirty"


def test_writing_again_changes_nothing(folder):
    text = "a\n<!-- table: some.csv\n| s | {seconds}\n-->\n<!-- end -->\nb"
    once = tables.rendered(text, folder)
    assert once != text and tables.rendered(once, folder) == once


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (": {second}", "no column 'second'; there are .*seconds"),
        (": {seconds}", "seconds is not the same in all rows"),
        (": {mode(seconds)}", "no function 'mode'; there are mean"),
        (" where task=c: {seconds}", "no row of some.csv is left"),
        (": {seconds", "no field of the form"),
        (" seconds", "a figure has the form"),
    ],
)
def test_a_wrong_figure_is_told(folder, marker, message):
    with pytest.raises(ValueError, match=message):
        value(folder, marker)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["| s | {seconds}", "were: a=b"], "unknown word in a marker: were"), ([], "needs columns")],
)
def test_a_wrong_table_is_told(folder, lines, message):
    with pytest.raises(ValueError, match=message):
        table(folder, *lines)


@pytest.mark.parametrize(
    "text", ["<!-- table: a.csv\n| a | {a}\n-->\n", "of <!-- value: a.csv: {a} -->"]
)
def test_a_marker_without_an_end_is_told(folder, text):
    with pytest.raises(ValueError, match="has no <!-- end -->"):
        tables.rendered(text + "\n or <!-- value: some.csv: {commit} --><!-- end -->", folder)


def test_a_figure_that_begins_a_line_is_told(folder):
    with pytest.raises(ValueError, match="must not begin a line"):
        tables.rendered("every\n<!-- value: some.csv: {commit} --><!-- end -->", folder)


def test_the_command_checks_without_writing_and_writes(folder):
    page = folder / "page.md"
    page.write_text("of <!-- value: some.csv: {commit} -->typed<!-- end -->\n", encoding="utf-8")

    def run(*options):
        command = [sys.executable, SCRIPT, *options, page]
        return subprocess.run(command, capture_output=True, text=True)

    check = run("--check")
    assert check.returncode == 1 and "differs from its CSV" in check.stdout
    assert "typed" in page.read_text(encoding="utf-8")
    assert run().returncode == 0
    assert page.read_text(encoding="utf-8") == (
        "of <!-- value: some.csv: {commit} -->abc1234-dirty<!-- end -->\n"
    )
    assert run("--check").returncode == 0
    page.write_text("of <!-- value: none.csv: {commit} --><!-- end -->", encoding="utf-8")
    wrong = run("--check")
    assert wrong.returncode == 1 and "none.csv" in wrong.stderr and "Traceback" not in wrong.stderr
