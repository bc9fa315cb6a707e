"""Writes the tables and figures of Markdown files from the CSV files that they name.

    python benchmarks/tables.py [--check] [FILE ...]

Nobody types a figure: a table stands between two comments, of which the first says how to make it.

    <!-- table: threshold.csv convolutions.csv
    where: method=sort|quantile, k=100
    group: d
    across: method
    sort: d
    | weights | {d:,}
    | milliseconds | {milliseconds@sort:.3g} ({min(low@sort) * 1e-3:.2g} s at best)
    -->
    <!-- end -->

Files are relative to the Markdown file; only their names and at least one column are needed.
``where`` keeps rows, ``group`` makes one line of all rows that agree in these columns, ``{x@key}``
is x of the rows whose column ``across`` is key. A plain ``{x}`` must be the same in all rows of a
line; else say which: mean, median, min, max, sum, count, or error, the standard error of the mean.
``{x * number:format}`` scales and formats as Python does. ``{device}`` and ``{commit}`` come from
the first line of a file. A cell whose field is empty is a dash.

A single figure, made of all rows that are kept; not first in a line, where Markdown would take the
comment for a paragraph of its own:

    <!-- value: update.csv where d=1000 across method: {seconds@nesht:.1f} -->0.2<!-- end -->
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]

TABLE = re.compile(r"(<!-- table: (.*?)\n-->\n)(?:(?!<!--).)*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: (.*?) -->)(?:(?!<!--).)*?(<!-- end -->)", re.DOTALL)
VALUE_PARTS = re.compile(
    r"(?P<files>[^:{}]*?)(?: where (?P<where>.*?))?(?: across (?P<across>\w+))?: (?P<cell>.*)",
    re.DOTALL,
)
FIELD = re.compile(
    r"\{(?:(?P<function>\w+)\()?(?P<column>\w+)(?:@(?P<key>[^{}():*]+))?\)?"
    r"(?: \* (?P<scale>[\d.e+-]+))?(?::(?P<format>[^{}]*))?\}"
)


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


FUNCTIONS: dict[str, Callable[[list], Any]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "sum": sum,
    "count": len,
    "error": _error,
}


class Recipe(NamedTuple):
    """What a marker asks for.

    Attributes:
        files: CSV files, joined one below the other.
        where: values that each named column may have.
        group: columns whose equal values make one line.
        across: column that ``{x@key}`` looks into.
        sort: columns to sort lines by; empty for the order of the files.
        columns: heading and template of each column.
    """

    files: list[str]
    where: dict[str, list[str]]
    group: list[str]
    across: str
    sort: list[str]
    columns: list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="Markdown files; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one differs")
    options = parser.parse_args()
    stale = []
    for path in options.files or markdown_files():
        before = path.read_text(encoding="utf-8")
        try:
            after = rendered(before, path.parent)
        except (OSError, ValueError) as error:
            sys.exit(f"{path}: {error}")
        if after != before:
            stale.append(str(path))
            if not options.check:
                path.write_text(after, encoding="utf-8")
    if stale:
        print("differs from its CSV:" if options.check else "written:", *stale)
    sys.exit(1 if options.check and stale else 0)


def markdown_files() -> list[Path]:
    """Lists the files of the repository that may hold markers."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
            *sorted((ROOT / "benchmarks").glob("*.md"))]  # fmt: skip


def rendered(text: str, folder: Path) -> str:
    """Writes every marked table and figure of a text anew; CSV names are relative to a folder.

    Raises:
        ValueError: if a marker has no end, or asks for what its CSV has not.
        OSError: if a CSV does not read.
    """
    for kind, pattern in (("table", TABLE), ("value", VALUE)):
        if text.count(f"<!-- {kind}: ") != len(pattern.findall(text)):
            raise ValueError(f"a marker <!-- {kind}: ... --> has no <!-- end -->")
    if re.search(r"^<!-- value: ", text, re.MULTILINE):
        raise ValueError("a figure <!-- value: ... --> must not begin a line")
    text = TABLE.sub(lambda m: m[1] + table(_table_recipe(m[2]), folder) + m[3], text)
    return VALUE.sub(lambda m: m[1] + _value(_value_recipe(m[2]), folder) + m[3], text)


def table(recipe: Recipe, folder: Path) -> str:
    """Makes a Markdown table, with a newline at its end."""
    headings, templates = zip(*recipe.columns, strict=True)
    lines = [
        [cell(template, rows, recipe.across) for template in templates]
        for rows in _groups(recipe, folder)
    ]
    rules = ["--:" if _is_measured(column) else "---" for column in zip(*lines, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rules, *lines))


def cell(template: str, rows: list[Row], across: str) -> str:
    """Fills a template from the rows of one line; a dash where a field is empty."""
    empty = False

    def fill(match: re.Match[str]) -> str:
        nonlocal empty
        value = _field(match, rows, across)
        empty |= value is None
        return "" if value is None else format(value, match["format"] or "")

    text = FIELD.sub(fill, template)
    if "{" in text:
        raise ValueError(f"no field of the form {{function(column@key) * number:format}}: {text}")
    return "–" if empty else text


def rows_of(path: Path) -> list[Row]:
    """Reads the rows of a CSV, numbers as numbers, with device and commit of its first line."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(file)
    measured = lines.pop(0).removeprefix("# ").strip() if lines[0].startswith("#") else ""
    device = ", ".join(measured.split(", ")[:2])
    made = {"device": device, "commit": measured.rpartition("commit ")[2]}
    return [made | {k: _number(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def _field(match: re.Match[str], rows: list[Row], across: str) -> Any:
    name, key = match["column"], match["key"]
    if key is not None:
        if key not in {str(row.get(across)) for row in rows}:
            return None
        rows = [row for row in rows if str(row.get(across)) == key]
    known = {column for row in rows for column in row}
    if name not in known:
        raise ValueError(f"no column {name!r}; there are {', '.join(sorted(known))}")
    values = [row[name] for row in rows if row.get(name, "") != ""]
    if not values:
        return None
    if match["function"]:
        if match["function"] not in FUNCTIONS:
            raise ValueError(f"no function {match['function']!r}; there are {', '.join(FUNCTIONS)}")
        value = FUNCTIONS[match["function"]](values)
    elif len(set(values)) == 1:
        value = values[0]
    else:
        raise ValueError(f"{name} is not the same in all rows of a line: {sorted(set(values))}")
    return value * float(match["scale"]) if match["scale"] else value


def _groups(recipe: Recipe, folder: Path) -> list[list[Row]]:
    """The rows of each line, in order."""
    rows = [row for file in recipe.files for row in rows_of(folder / file)]
    for column, values in recipe.where.items():
        rows = [row for row in rows if str(row.get(column)) in values]
    if not rows:
        raise ValueError(f"no row of {' '.join(recipe.files)} is left by where: {recipe.where}")
    for column in reversed(recipe.sort):
        rows.sort(key=lambda row: row[column])
    groups: dict[Any, list[Row]] = {}
    for number, row in enumerate(rows):
        key = tuple(row[column] for column in recipe.group) if recipe.group else number
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _value(recipe: Recipe, folder: Path) -> str:
    rows = [row for group in _groups(recipe, folder) for row in group]
    return cell(recipe.columns[0][1], rows, recipe.across)


def _table_recipe(text: str) -> Recipe:
    files, *lines = text.split("\n")
    columns = [line.strip("| ").split(" | ", 1) for line in lines if line.startswith("|")]
    said = dict(line.split(": ", 1) for line in lines if not line.startswith("|") and line.strip())
    if wrong := set(said) - {"where", "group", "across", "sort"}:
        raise ValueError(f"unknown word in a marker: {', '.join(wrong)}")
    if not columns or any(len(column) != 2 for column in columns):
        raise ValueError("a table needs columns of the form: | heading | {template}")
    return Recipe(
        files.split(),
        _conditions(said.get("where", "")),
        _listed(said.get("group", "")),
        said.get("across", ""),
        _listed(said.get("sort", "")),
        [(heading, template) for heading, template in columns],
    )


def _value_recipe(text: str) -> Recipe:
    parts = VALUE_PARTS.fullmatch(text)
    if not parts:
        raise ValueError(f"a figure has the form FILE where COLUMN=VALUE: {{template}}, got {text}")
    where = _conditions(parts["where"] or "")
    files = parts["files"].split()
    return Recipe(files, where, [], parts["across"] or "", [], [("", parts["cell"])])


def _conditions(text: str) -> dict[str, list[str]]:
    pairs = (condition.split("=", 1) for condition in _listed(text))
    return {column: values.split("|") for column, values in pairs}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_measured(column: tuple[str, ...]) -> bool:
    return all(re.fullmatch(r"[-×]?\d.*|–", text) for text in column)


if __name__ == "__main__":
    main()
