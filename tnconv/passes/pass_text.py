"""The text of a pass, `batch{index=v, over=[x]}`: splitting, printing and checking of option values."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from tnconv.errors import PassError
from tnconv.ir import as_integer

_PASS = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*(?:\{(.*)\})?\s*\Z", re.ASCII | re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"
NONE = "none"
# A pass that uncovers work for an earlier one is followed by it once more.
DEFAULT = (
    "drop_unit_indices | absorb_deltas | compose_patterns | window_sums | absorb_deltas | drop_unit_indices"
    " | dense | downsample | unit_kernels | merge_indices"
)
PRESETS = {"default": DEFAULT, "none": ""}


def split_pass(text: str) -> tuple[str, dict[str, str]]:
    """The name and the option texts of `name{a=1, b=[x, y]}`.

    Raises:
        PassError: the text is not that of a pass.
    """
    match = _PASS.match(text)
    if not match:
        raise PassError(f"{text.strip()!r} is not a pass; write name or name{{option=value, option=[a, b]}}")
    options: dict[str, str] = {}
    for item in filter(None, split(match[2] or "", ",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise PassError(f"option {item!r} of pass {match[1]!r} has no value; write {key}=VALUE")
        if key in options:
            raise PassError(f"pass {match[1]!r} has option {key!r} twice; remove one")
        options[key] = value
    return match[1], options


def split(text: str, separator: str) -> list[str]:
    """Parts of a text between separators that are in no bracket and no quotes, stripped."""
    parts = [""]
    for character, outside in _depths(text):
        if outside and character == separator:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _depths(text: str) -> Iterator[tuple[str, bool]]:
    open_brackets: list[str] = []
    quoted = False
    for character in text:
        yield character, not open_brackets and not quoted
        if character == '"':
            quoted = not quoted
        elif not quoted and character in _OPENING:
            open_brackets.append(_CLOSING[_OPENING.index(character)])
        elif not quoted and character in _CLOSING and (not open_brackets or open_brackets.pop() != character):
            raise PassError(
                f"bracket {character!r} in {text.strip()!r} does not close one; balance the brackets"
            )
    if open_brackets or quoted:
        wanted = '"' if quoted else open_brackets[-1]
        raise PassError(f"{text.strip()!r} ends before {wanted!r}; balance the brackets and quotes")


def format_value(value: object) -> str:
    """The text of an option value, which `read_value` reads back."""
    match value:
        case None:
            return NONE
        case bool():
            return "true" if value else "false"
        case tuple():
            return f"[{', '.join(map(format_value, value))}]"
        case str() if _needs_quotes(value):
            return f'"{value}"'
        case _:
            return str(value)


def format_pass(name: str, options: Any) -> str:
    """The text of a pass: its name, and those of its options, fields of a dataclass, that are no defaults."""
    given = [
        f"{each.name}={format_value(getattr(options, each.name))}"
        for each in dataclasses.fields(options)
        if getattr(options, each.name) != each.default
    ]
    return f"{name}{{{', '.join(given)}}}" if given else name


def _needs_quotes(value: str) -> bool:
    if not value or value != value.strip() or value in (NONE, "true", "false") or value.startswith("["):
        return True
    try:
        return any(outside and character in ",|=" for character, outside in _depths(value))
    except PassError:
        return True


def read_value(text: str, hint: Any) -> Any:
    """The value that a text means for an option annotated with `hint`; left a text if it means none."""
    inner, optional = strip_optional(hint)
    if optional and text == NONE:
        return None
    if typing.get_origin(inner) is tuple:
        text = _unquoted(text)
        body = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        element = typing.get_args(inner)[0]
        return tuple(read_value(part, element) for part in split(body, ",") if part)
    if inner is bool:
        return {"true": True, "false": False}.get(text, text)
    if inner is int:
        return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
    return _unquoted(text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def check_value(value: object, hint: Any, what: str) -> Any:
    """The value as the hint wants it (a list becomes a tuple).

    Raises:
        PassError: it is of another type.
    """
    inner, optional = strip_optional(hint)
    if value is None and optional:
        return None
    if typing.get_origin(inner) is tuple and isinstance(value, list | tuple):
        element = typing.get_args(inner)[0]
        return tuple(check_value(v, element, what) for v in value)
    number = as_integer(value) if inner is int else None
    if number is not None:
        return number
    if inner is Any or (isinstance(inner, type) and isinstance(value, inner) and type(value) is not bool):
        _check_text(value, what)
        return value
    if inner is bool and isinstance(value, bool):
        return value
    raise PassError(f"{what} is {value!r}, not {hint_text(hint)}; write one")


def _check_text(value: object, what: str) -> None:
    if isinstance(value, str) and re.search(r'["\n\r]', value):
        raise PassError(f"{what} is {value!r}; an option cannot hold quotes or line breaks")


def strip_optional(hint: Any) -> tuple[Any, bool]:
    """`(T, True)` for `T | None`, `(T, False)` for another hint."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = tuple(a for a in typing.get_args(hint) if a is not type(None))
        if len(rest) == 1:
            return rest[0], True
    return hint, False


def hint_text(hint: Any) -> str:
    """What an option wants, in words."""
    inner, optional = strip_optional(hint)
    words = {str: "a text", int: "an integer", bool: "true or false"}.get(inner, "a list such as [a, b]")
    return f"{words} or none" if optional else words
