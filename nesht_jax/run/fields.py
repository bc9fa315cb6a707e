"""Plain values, as YAML gives them, checked against the fields of dataclasses."""

import dataclasses
import os
import types
from functools import cache
from numbers import Real
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

hints = cache(get_type_hints)


def leaves(kind: Any, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Every field of a dataclass, nested ones by dotted names -> (its dataclass, its own name)."""
    found = {}
    for f in dataclasses.fields(kind):
        section = hints(kind)[f.name]
        if dataclasses.is_dataclass(section):
            found |= leaves(section, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = (kind, f.name)
    return found


def differences(one: Any, other: Any) -> list[str]:
    """Dotted names of the fields in which two values of a dataclass differ."""
    return [n for n in leaves(type(one)) if attrgetter(n)(one) != attrgetter(n)(other)]


def checked(kind: type, name: str, value: Any, prefix: str = "") -> Any:
    """The value of a field, as its type wants it: lists become tuples, 1 becomes 1.0, 3e6 an int,
    a path text; numbers of NumPy become Python's.

    Raises:
        ValueError: in one sentence that names the field, what it takes and what it got.
    """
    annotation = hints(kind)[name]
    try:
        return _converted(annotation, value)
    except (TypeError, OverflowError):
        raise ValueError(f"{prefix}{name} must be {_wanted(annotation)}, got {value!r}") from None


def _converted(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (a for a in arguments if a is not type(None))
        return _converted(kind, value)
    if origin is Literal:
        accepted = isinstance(value, str) and value in arguments
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_converted(arguments[0], part) for part in value)
        accepted = False
    elif origin is dict:
        accepted = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    elif kind is float:
        accepted = _is_number(value)
        value = float(value) if accepted else value
    elif kind is int:
        accepted = _is_number(value) and value % 1 == 0
        value = int(value) if accepted else value
    else:
        value = os.fspath(value) if kind is str and isinstance(value, os.PathLike) else value
        accepted = isinstance(value, kind)
    if not accepted:
        raise TypeError
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _wanted(kind: Any) -> str:
    """What a field takes, in words, with an example where YAML's form is not obvious."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (a for a in arguments if a is not type(None))
        return f"{_wanted(kind)} or null"
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is tuple and get_origin(arguments[0]) is Literal:
        return f"a list of {', '.join(get_args(arguments[0]))}"
    if origin is tuple:
        example = "[64, 64]" if arguments[0] is int else "[first, last]"
        return f"a list, as {example}"
    if origin is dict:
        return "a mapping, as {name: value}"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return words.get(kind, f"a mapping of the options of {kind.__name__.removesuffix('Config')}")
