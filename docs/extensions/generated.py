"""Writes the parts of pages that the code already says: nothing is typed twice.

A comment ``<!-- generated: NAME -->`` in a page is replaced by what the function ``NAME`` here
returns, in Markdown, before the page is parsed.
"""

import dataclasses
import inspect
import json
import re
import types
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import nesht_jax
from nesht_jax.envs import catalog
from nesht_jax.es.nes import Info
from nesht_jax.report.rows import EvaluationRow, Row
from nesht_jax.run.config import Config

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- generated: (\w+) -->")


def setup(app: Any) -> dict[str, bool]:
    """Registers the extension with Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", escape)
    return {"parallel_read_safe": True}


def fill(app: Any, name: str, source: list[str]) -> None:
    """Replaces the comments of one page."""
    source[0] = MARK.sub(lambda match: PARTS[match[1]](), source[0])


def escape(app: Any, kind: str, name: str, made: Any, options: Any, lines: list[str]) -> None:
    """Lets |x| be a magnitude and a lone * a star, which are markup in reStructuredText."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [re.sub(r"\||(?<![*\w\\])\*(?=[, ])", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def configuration() -> str:
    """Every option of a config: its name, type, default and meaning."""
    return "\n".join(_options(Config, ""))


def presets() -> str:
    """The shipped presets, each by the comment at its head and what it changes."""
    parts = []
    for path in sorted((ROOT / "configs" / "preset").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        settings = "\n".join(line for line in lines if not line.startswith("#"))
        parts.append(f"### `{path.stem}`\n\n{comment}\n\n```yaml\n{settings}\n```\n")
    return "\n".join(parts)


def suites() -> str:
    """One line a suite: what it is, how many tasks the catalog knows, what installs it."""
    sizes = Counter(entry.suite for entry in catalog.entries())
    lines = ["| suite | what it holds | tasks | installation |", "|---|---|--:|---|"]
    for name, about in catalog.SUITES.items():
        remedy = catalog.REMEDIES.get(name)
        how = f"`{remedy}`" if remedy else "comes with the package"
        lines.append(f"| `{name}/*` | {about} | {sizes[name]} | {how} |")
    return "\n".join(lines)


def metrics() -> str:
    """The fields of a row of ``metrics.jsonl``, and of its ``evaluation``."""
    told = entries(Row) | entries(Info)
    row = {name: told[name] for name in Row._fields}
    return "\n".join(
        f"### {title}\n\n" + "\n".join(f"`{name}`\n: {about}\n" for name, about in fields.items())
        for title, fields in (("A row", row), ("Its `evaluation`", entries(EvaluationRow)))
    )


def public() -> str:
    """Every public name, by the module it lives in."""
    stub = (ROOT / "nesht_jax" / "__init__.pyi").read_text(encoding="utf-8")
    modules: dict[str, list[str]] = {}
    for module, name in re.findall(r"^from \.(\S+) import (\w+)", stub, re.MULTILINE):
        modules.setdefault(module, []).append(name)
    parts = []
    for module, names in modules.items():
        parts.append(f"### `nesht_jax.{module}`\n\n```{{eval-rst}}\n{_documented(names)}```\n")
    return "\n".join(parts)


def differences() -> str:
    """The README's list of differences from the papers."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    title = "Differences from the papers"
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"the README has no section {title!r}")
    return found[1].strip()


PARTS = {f.__name__: f for f in (configuration, presets, suites, metrics, public, differences)}


def entries(documented: Any) -> dict[str, str]:
    """The entries under ``Args:`` or ``Attributes:`` of a docstring, each in one line."""
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    if not section:
        return {}
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1], re.MULTILINE | re.DOTALL)
    return {name: " ".join(about.split()) for name, about in found}


def _options(kind: Any, prefix: str) -> list[str]:
    hints, told, inner = get_type_hints(kind), entries(kind), []
    lines = []
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            about = told[field.name]
            inner += [f"## `{name}`\n\n{about[0].upper()}{about[1:]}\n"]
            inner += _options(hints[field.name], f"{name}.")
        else:
            about = f"{_kind(hints[field.name])}; {_default(field)}"
            lines.append(f"`{name}` *({about})*\n: {told[field.name]}\n")
    return lines + inner


def _kind(hint: Any) -> str:
    """What YAML takes for a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(arguments)
    if origin is types.UnionType:
        return " or ".join("null" if a is type(None) else _kind(a) for a in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return words.get(hint, "mapping")


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    return f"default {value if isinstance(value, str) else json.dumps(value)}"


def _documented(names: list[str]) -> str:
    """Directives of autodoc for some public names."""
    lines = []
    for name in names:
        made = getattr(nesht_jax, name)
        lines.append(
            f".. auto{'class' if inspect.isclass(made) else 'function'}:: nesht_jax.{name}"
        )
        if inspect.isclass(made) and (methods := _methods(made)):
            lines.append(f"   :members: {', '.join(methods)}")
        lines.append("")
    return "\n".join(lines)


def _methods(made: type) -> list[str]:
    """Public methods that a class itself defines and documents."""
    return [
        name
        for name, part in vars(made).items()
        if not name.startswith("_")
        and isinstance(part, types.FunctionType | classmethod | property)
        and inspect.getdoc(part)
    ]
