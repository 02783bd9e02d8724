"""Options in messages as they are typed: for `memory_limit='5 x'` of the library `--memory-limit '5 x'`."""

import ast
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

_OF_FILES = re.compile(
    r"(spec file|network file|file|layer) ['\"]"
)  # whose fields have the names that files have
_OTHERS = {"hints": "size", "as_json": "json"}  # options of the library that are called otherwise here
_VALUE = r"(?:=(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\{[^}]*\}|True|False)?)"


def as_typed(message: str, flags: Mapping[str, bool]) -> str:
    """A message of the library for someone at a shell.

    Args:
        message: it names options as arguments of Python.
        flags: of a command, by their names in Python, and whether each is a switch.
    """
    if _OF_FILES.match(message):
        return message
    known = {name: f"--{name.replace('_', '-')}" for name in flags}
    known |= {name: f"--{other}" for name, other in _OTHERS.items() if other in flags}

    def typed(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        return _typed(known[name], value, flags.get(name, False)) or found[0]

    names = "|".join(sorted(known, key=len, reverse=True))
    message = re.sub(rf"(?<![\w.])(?P<name>{names}){_VALUE}", typed, message)
    message = re.sub(rf"\A({names})(?= (?:has|names) )", lambda found: known[found[1]], message)
    words = "|".join(name for name in known if "_" in name or name in _OTHERS)
    message = re.sub(rf"(?<![\w.-])({words})\b", lambda found: known[found[1]], message) if words else message
    return re.sub(r"\bhint (?=\w+=|for ')", "--size ", message) if "hints" in known else message


def _typed(flag: str, value: str | None, switch: bool) -> str | None:
    """A flag with a value; None where the value is none that it may have."""
    if value is None:
        return f"{flag} "
    if value in ("True", "False"):
        return (flag if value == "True" else f"no {flag}") if switch else None
    try:
        read: Any = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return None
    if switch:
        return flag
    return " ".join(f"{flag} {shlex.quote(each)}" for each in _texts(read)) or flag


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return [f"{name}={','.join(_texts(each))}" for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    return [str(value)]
