"""The types of values that parameters have: what is expected, in words, and how to read it.

IPS hands over text, or a list of texts where the value holds a comma. A type turns that into a
Python value or raises :class:`ValueError` saying what is wrong; what was expected is its own
``expects``.
"""

import ast
import json
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Raw = str | list[str]

_MODULE_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class ParameterType:
    """One type of value.

    Parameters
    ----------
    expects
        What is expected, as in "expected ..., got 'x'".
    read
        Turns text (or a list of texts) into the value; raises ValueError.
    example
        A value as it would be written.
    """

    expects: str
    read: Callable[[Raw], Any]
    example: str = ""


def as_text(raw: Raw) -> str:
    """Undo the splitting at commas."""
    return ", ".join(raw) if isinstance(raw, list) else raw.strip()


def as_list(raw: Raw) -> tuple[str, ...]:
    """Split at commas and at white space alike."""
    return tuple(as_text(raw).replace(",", " ").split())


def _evaluate(node: ast.AST) -> float:
    if isinstance(node, ast.Expression):
        return _evaluate(node.body)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right)))
    raise ValueError("not a number")


def _number(raw: Raw) -> float:
    try:
        return _evaluate(ast.parse(as_text(raw), mode="eval"))
    except (SyntaxError, ZeroDivisionError):
        raise ValueError("not a number") from None


def _whole(least: int) -> Callable[[Raw], int]:
    def read(raw: Raw) -> int:
        value = int(as_text(raw))
        if value < least:
            raise ValueError(f"less than {least}")
        return value

    return read


def _bounded(low: float, high: float, open_low: bool = False) -> Callable[[Raw], float]:
    def read(raw: Raw) -> float:
        value = float(as_text(raw))
        if not low <= value <= high or (open_low and value == low):
            raise ValueError("out of range")
        return value

    return read


def parse_bool(raw: Raw) -> bool:
    word = as_text(raw).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0", ""):
        return False
    raise ValueError("neither true nor false")


def choice(*words: str) -> ParameterType:
    """One of several words; capital letters do not matter."""
    by_lower = {word.lower(): word for word in words}

    def read(raw: Raw) -> str:
        try:
            return by_lower[as_text(raw).lower()]
        except KeyError:
            raise ValueError("none of these") from None

    return ParameterType(f"one of {', '.join(words)}", read, words[0])


def choices(*words: str) -> ParameterType:
    """Some of several words."""
    one = choice(*words)

    def read(raw: Raw) -> tuple[str, ...]:
        some = tuple(one.read(word) for word in as_list(raw))
        if not some:
            raise ValueError("none given")
        return some

    return ParameterType(f"one or more of {', '.join(words)}", read, ", ".join(words))


_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _log_level(raw: Raw) -> str:
    """Read a level as IPS does, which takes the name of any level of the module logging."""
    text = as_text(raw)
    if text not in (*_LEVELS, "WARN", "FATAL", "NOTSET"):
        raise ValueError("none of these")
    return text


def _extents(raw: Raw) -> tuple[int, ...]:
    values = tuple(int(word) for word in re.split(r"[\sx,]+", as_text(raw).strip("()[] ")) if word)
    if not values or any(value < 1 and value != -1 for value in values):
        raise ValueError("not extents")
    return values


def _widths(raw: Raw) -> Any:
    values: list[int | tuple[int, ...]] = []
    for word in as_list(raw):
        below, colon, above = word.partition(":")
        widths = (int(below), int(above)) if colon else (int(below),)
        if min(widths) < 0:
            raise ValueError("not widths")
        values.append(widths if colon else widths[0])
    if not values:
        raise ValueError("not widths")
    return values[0] if len(values) == 1 and isinstance(values[0], int) else tuple(values)


def _owners(raw: Raw) -> tuple[str, ...]:
    words = tuple(word.lower() for word in as_list(raw))
    if not words or any(word not in ("low", "high", "none") for word in words):
        raise ValueError("not owners")
    return tuple("" if word == "none" else word for word in words)


def _module_function(raw: Raw) -> str:
    text = as_text(raw)
    if not _MODULE_FUNCTION.fullmatch(text):
        raise ValueError("not package.module:function")
    return text


def _module_functions(raw: Raw) -> str:
    functions = [_module_function(each) for each in as_list(raw)]
    if not functions:
        raise ValueError("none")
    if twice := [each for each in functions if functions.count(each) > 1]:
        raise ValueError(f"{twice[0]} is there twice")
    return ", ".join(functions)


def _module_functions_or_none(raw: Raw) -> str:
    return _module_functions(raw) if as_list(raw) else ""


def _items(text: str) -> list[str]:
    """Split at commas and white space, but not within brackets or quotes."""
    items, item, depth, quote = [], "", 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and (character == "," or character.isspace()):
            items.append(item)
            item = ""
            continue
        item += character
    return [each for each in [*items, item] if each]


def _pairs(raw: Raw) -> dict[str, str]:
    pairs = {}
    for item in _items(as_text(raw)):
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValueError(f"{item!r} is no NAME=value")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        pairs[name] = value
    return pairs


def python_value(text: str) -> Any:
    """Read one value as JSON or as a Python literal; anything else is a text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _arguments(raw: Raw) -> dict[str, Any]:
    text = as_text(raw)
    if text.startswith("{"):
        value = python_value(text)
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ValueError("not a JSON object")
        return value
    return {name: python_value(value) for name, value in _pairs(raw).items()}


def _chunks(raw: Raw) -> Any:
    text = as_text(raw)
    if not text or text.lower() == "auto":
        return None
    value = python_value(text if text[0] in "([{" else f"({text},)")
    if isinstance(value, int):
        value = (value,)
    if not isinstance(value, (tuple, list)):
        raise ValueError("not chunks")
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def _steps(raw: Raw) -> dict[str, int | None]:
    parts = as_text(raw).split(":")
    if len(parts) == 1:
        return {"start": 0, "every": 1, "count": _whole(1)(parts[0])}
    start, stop, every = (int(part) if part.strip() else None for part in [*parts, ""][:3])
    start, every = start or 0, every or 1
    if len(parts) > 3 or every < 1 or (stop is not None and stop <= start):
        raise ValueError("not steps")
    count = None if stop is None else -(-(stop - start) // every)
    return {"start": start, "every": every, "count": count}


TEXT = ParameterType("a text", as_text)
LOG_LEVEL = ParameterType(f"one of {', '.join(_LEVELS)}, in capital letters", _log_level, "INFO")
WORDS = ParameterType("words, as on a command line", lambda raw: tuple(shlex.split(as_text(raw))))
LIST = ParameterType("names, separated by spaces", as_list, "a.dat b.dat")
NON_NEGATIVE_INT = ParameterType("a whole number >= 0", _whole(0), "0")
POSITIVE_INT = ParameterType("a whole number >= 1", _whole(1), "4")
NUMBER = ParameterType("a number", _number, "1.5")
SECONDS = ParameterType("seconds, a number >= 0", _bounded(0.0, float("inf")), "60")
TIME_OUT = ParameterType("seconds, a number > 0", _bounded(0.0, float("inf"), open_low=True), "60")
SHARE = ParameterType("a number > 0 and <= 1", _bounded(0.0, 1.0, open_low=True), "0.3")
BOOL = ParameterType("True or False", parse_bool, "True")
EXTENTS = ParameterType(
    "whole numbers >= 1 (-1: varies), one for each dimension", _extents, "256, 256"
)
WIDTHS = ParameterType(
    "whole numbers >= 0, or below:above, one for all or one for each dimension", _widths, "2:3, 1"
)
OWNERS = ParameterType(
    "low, high or none, one for all or one for each dimension", _owners, "none, low"
)
FUNCTION = ParameterType("package.module:function", _module_function, "my_package.analysis:mean")
FUNCTIONS = ParameterType(
    "package.module:function, or several with commas between",
    _module_functions,
    "my_package.analysis:mean",
)
FUNCTIONS_OR_NONE = ParameterType(
    "package.module:function, or several with commas between; empty for none",
    _module_functions_or_none,
    "my_package.analysis:mean",
)
PAIRS = ParameterType("NAME=value pairs, separated by spaces", _pairs, "OMP_NUM_THREADS=2")
ARGUMENTS = ParameterType("name=value pairs or a JSON object", _arguments, "n_components=4")
CHUNKS = ParameterType("chunks as in Dask, time first, or auto", _chunks, "1, 128, -1")
STEPS = ParameterType("a number of steps, or start:stop:every", _steps, "0:1000:10")
NUMBERS = ParameterType(
    "numbers, separated by spaces", lambda raw: tuple(float(word) for word in as_list(raw)), "0 1"
)
