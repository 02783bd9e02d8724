"""What docstrings say, for tables of passes, kernels and fields: the first sentence, and what each argument is."""

import inspect
import re

_SECTION = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): ")


def first_line(of: object) -> str:
    """What a class or a function does, in a sentence: the first line of its docstring, empty where there is none."""
    return (of.__doc__ or "").strip().partition("\n")[0]


def arguments(of: object) -> dict[str, str]:
    """The arguments of a class or a function by name, each with what its docstring says, on one line."""
    section = _SECTION.search(inspect.cleandoc(of.__doc__ or ""))
    found: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        match = _ARGUMENT.match(line)
        if match:
            name = match[1]
            found[name] = line[match.end() :]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found
